"""SuperDiff with log-ratios along paths: exact for Gaussians, and nearer to the truth than Ito's formula."""

import pytest
import torch

from edmfast import Mixture, Product, sampling, smc
from edmfast.analytic import GaussianMixture, MixtureOfGaussians

F64 = smc.RunOptions(dtype=torch.float64)


def sigmas(count):
    return sampling.get_sigmas_karras(count, 0.1, 20.0)[:-1]


def run(target, count, dim, density, **options):
    proposal = smc.SuperDiff(density=density, probes=options.pop("probes", 1))
    arguments = {"particles": 200, "seed": 1, "options": F64} | options
    return smc.sample(target, (dim,), sigmas(count), proposal=proposal, **arguments)


def anisotropic(dim=8):
    """Return two mixtures of anisotropic Gaussians that overlap."""
    generator = torch.Generator().manual_seed(0)
    models = []
    for shift in (-0.3, 0.3):
        turns = torch.linalg.qr(torch.randn(3, dim, dim, generator=generator, dtype=torch.float64))[
            0
        ]
        spread = torch.logspace(-1, 0, dim, dtype=torch.float64).diag_embed()
        means = shift + 0.7 * torch.randn(3, dim, generator=generator, dtype=torch.float64)
        models.append(MixtureOfGaussians(means, turns @ spread @ turns.mT))
    return models


def errors(result, models):
    exact = torch.stack([model.log_prob(result.x[0], 0.1) for model in models], 1)
    return result.log_densities[0] - exact, exact


@pytest.mark.parametrize("combine", [Product, Mixture])
@pytest.mark.parametrize("exact", [True, False])
def test_isotropic_gaussians_have_exact_log_densities_at_few_levels(combine, exact):
    models = [GaussianMixture([[m, 0.0, 0.5]], [std]) for m, std in ((-0.5, 0.6), (0.4, 0.9))]
    # A method of the mixture does not offer its exact trace.
    shown = models if exact else [model.denoise for model in models]
    result = run(combine(shown), 6, 3, "path")
    error, _ = errors(result, models)
    assert float(error.abs().max()) < 1e-6
    ito, _ = errors(run(combine(shown), 6, 3, "ito"), models)
    assert float(ito.abs().mean()) > 0.5


@pytest.mark.parametrize(("exact", "gain"), [(True, 4), (False, 2)])
def test_the_mixture_is_led_by_log_densities_nearer_to_the_truth(exact, gain):
    models = anisotropic()
    shown = models if exact else [model.denoise for model in models]
    spreads = {}
    for density in ("ito", "path"):
        error, _ = errors(run(Mixture(shown), 32, 8, density), models)
        spreads[density] = float((error[:, 0] - error[:, 1]).std())
        # Itô's formula is off by nats in the mean, too.
        assert (abs(float(error.mean())) < 0.3) == (density == "path")
    assert spreads["path"] < spreads["ito"] / gain


def test_the_product_closes_the_gap_between_the_models():
    models = anisotropic()
    gaps = {}
    for density in ("ito", "path"):
        result = run(Product(models), 32, 8, density)
        assert "no weights" in result.law
        _, exact = errors(result, models)
        gaps[density] = float((exact[:, 0] - exact[:, 1]).abs().mean())
    assert gaps["path"] < gaps["ito"] / 4


def test_a_gap_is_closed_by_no_more_than_the_noise_where_models_agree():
    from edmfast.smc.feynman_kac.superdiff import _gaps

    scores = torch.randn(
        3, 1, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    scores[:, :, 0] = scores[0, :, 0]
    gram = torch.einsum("ipnd,jpnd->pnij", scores, scores)
    tau2 = torch.tensor(0.3, dtype=torch.float64)
    densities = torch.tensor([1e6, 0.0, -1e6], dtype=torch.float64).expand(1, 4, 3)
    gaps = _gaps(densities, gram, tau2)
    assert float(gaps[0, 0].abs().max()) < 1e-7
    apart = (scores - scores.mean(0)).square().sum(-1).sqrt().movedim(0, 2) * tau2.sqrt()
    torch.testing.assert_close(gaps[0, 1:, 0], apart[0, 1:, 0])
    small = torch.tensor([0.01, 0.0, -0.01], dtype=torch.float64).expand(1, 4, 3)
    torch.testing.assert_close(_gaps(small, gram, tau2)[0, 1:], small[0, 1:])


def test_a_population_has_its_bits_beside_others_and_costs_are_counted():
    models = [model.denoise for model in anisotropic()]
    whole = run(Product(models), 5, 8, "path", populations=3, particles=20, probes=2)
    alone = run(Product(models), 5, 8, "path", particles=20, probes=2)
    assert torch.equal(alone.x[0], whole.x[0])
    assert torch.equal(alone.log_densities[0], whole.log_densities[0])
    # Two models, five levels, and two probes at each level but the last.
    assert whole.evaluations == (10, 16)
    assert run(Product(models), 5, 8, "ito", particles=20).evaluations == (10, 0)


def test_a_run_resumes_with_its_traces(tmp_path):
    models = [model.denoise for model in anisotropic()]
    whole = run(Product(models), 6, 8, "path", particles=20)

    def stop(info):
        if info["i"] == 3:
            raise KeyboardInterrupt

    path = tmp_path / "run.safetensors"
    settings = {"particles": 20, "checkpoint": smc.Checkpoint(path, every=1)}
    with pytest.warns(UserWarning, match="interrupted"), pytest.raises(KeyboardInterrupt):
        run(Product(models), 6, 8, "path", callback=stop, **settings)
    settings["checkpoint"] = smc.Checkpoint(path, resume_from=path, overwrite=True)
    resumed = run(Product(models), 6, 8, "path", **settings)
    assert torch.equal(resumed.x, whole.x)
    assert torch.equal(resumed.log_densities, whole.log_densities)


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="density must be 'ito' or 'path', given 'exact'"):
        smc.SuperDiff(density="exact")
    with pytest.raises(ValueError, match="probes"):
        smc.SuperDiff(density="path", probes=0)
    hidden = torch.no_grad()(anisotropic()[0].denoise)
    with pytest.raises(ValueError, match="jacobian_trace"):
        run(Product([hidden, hidden]), 3, 8, "path", particles=4)
