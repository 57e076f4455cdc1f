"""Run `bench.studies.distillation.run` as `python -m bench.studies.distillation`."""

from bench.studies.distillation.run import main

if __name__ == "__main__":
    raise SystemExit(main())
