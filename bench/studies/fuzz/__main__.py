"""Run `bench.studies.fuzz.run` as `python -m bench.studies.fuzz`."""

from bench.studies.fuzz.run import main

if __name__ == "__main__":
    raise SystemExit(main())
