"""Run `bench.studies.fokker_planck.run` as `python -m bench.studies.fokker_planck`."""

from bench.studies.fokker_planck.run import main

if __name__ == "__main__":
    raise SystemExit(main())
