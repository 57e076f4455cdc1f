"""Run `bench.studies.targets.run` as `python -m bench.studies.targets`."""

from bench.studies.targets.run import main

if __name__ == "__main__":
    raise SystemExit(main())
