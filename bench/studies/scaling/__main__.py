"""Run `bench.studies.scaling.run` as `python -m bench.studies.scaling`."""

from bench.studies.scaling.run import main

if __name__ == "__main__":
    raise SystemExit(main())
