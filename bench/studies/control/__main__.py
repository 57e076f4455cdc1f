"""Run `bench.studies.control.run` as `python -m bench.studies.control`."""

from bench.studies.control.run import main

if __name__ == "__main__":
    raise SystemExit(main())
