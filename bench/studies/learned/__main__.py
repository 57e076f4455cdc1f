"""Run `bench.studies.learned.run` as `python -m bench.studies.learned`."""

from bench.studies.learned.run import main

if __name__ == "__main__":
    raise SystemExit(main())
