// The schemas of all operators of edmfast, and nothing else. Kernels register themselves in cpu/ and cuda/.
#include "include/library.h"

EDMFAST_LIBRARY(m) {
  m.def(
      "attention(Tensor q, Tensor k, Tensor v, Tensor? key_mask, float scale, bool causal) "
      "-> (Tensor, Tensor)");
  m.def(
      "attention_backward(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, "
      "Tensor? key_mask, float scale, bool causal) -> (Tensor, Tensor, Tensor)");
  m.def(
      "attention_double_backward(Tensor a, Tensor b, Tensor c, Tensor grad, Tensor q, Tensor k, Tensor v, "
      "Tensor out, Tensor lse, Tensor? key_mask, float scale, bool causal) "
      "-> (Tensor, Tensor, Tensor, Tensor)");
  m.def("curvature(Tensor products, Tensor probes, Tensor? exponents, float exponent) -> Tensor");
  m.def(
      "curvature_matched(Tensor curvature, Tensor ancestors, Tensor? exponents, float exponent, Tensor levels) "
      "-> Tensor");
  m.def(
      "attention_jvp(Tensor? q_tangent, Tensor? k_tangent, Tensor? v_tangent, Tensor q, Tensor k, Tensor v, "
      "Tensor? key_mask, float scale, bool causal) -> (Tensor, Tensor)");
  m.def(
      "group_norm_silu(Tensor x, Tensor scale, Tensor shift, int groups, float eps, bool centred, bool silu) "
      "-> (Tensor, Tensor, Tensor)");
  m.def(
      "group_norm_silu_backward(Tensor grad, Tensor x, Tensor scale, Tensor shift, Tensor mean, Tensor rstd, "
      "bool centred, bool silu) -> (Tensor, Tensor, Tensor)");
  m.def(
      "group_norm_silu_double_backward(Tensor to_x, Tensor? to_scale, Tensor? to_shift, Tensor grad, Tensor x, "
      "Tensor scale, Tensor shift, Tensor mean, Tensor rstd, bool centred, bool silu) "
      "-> (Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "linear_combination(Tensor[] tensors, Tensor coefficients, Tensor? seeds, Tensor? nodes, Tensor? weights, "
      "int stream, int first_sample) -> Tensor");
  m.def(
      "mlp_potential(Tensor x, Tensor coefficients, Tensor[] shifts, Tensor[] entry, Tensor[] entry_bias, "
      "Tensor[] layers, Tensor[] exit, Tensor[] exit_bias, bool save) -> (Tensor, Tensor, Tensor)");
  m.def(
      "mlp_potential_backward(Tensor grad_energy, Tensor grad_field, Tensor x, Tensor coefficients, "
      "Tensor[] shifts, Tensor[] entry, Tensor[] entry_bias, Tensor[] layers, Tensor[] exit, Tensor[] exit_bias, "
      "Tensor saved, bool inputs, bool weights) "
      "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "mlp_potential_probe(Tensor x, Tensor v, Tensor coefficients, Tensor[] shifts, Tensor[] entry, "
      "Tensor[] entry_bias, Tensor[] layers, Tensor[] exit, Tensor[] exit_bias) -> (Tensor, Tensor, Tensor)");
  m.def("noise(Tensor like, Tensor rng, int stream, int first_population, int first_particle) -> Tensor");
  m.def("potential(Tensor h, Tensor y, Tensor weight) -> (Tensor, Tensor)");
  m.def("potential_field(Tensor h, Tensor pullback, Tensor y, Tensor numbers) -> (Tensor, Tensor)");
  m.def("potential_assemble(Tensor h, Tensor pullback, Tensor y, Tensor coefficients) -> Tensor");
  m.def(
      "potential_assemble_backward(Tensor grad, Tensor h, Tensor pullback, Tensor y, Tensor coefficients) "
      "-> (Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "potential_backward(Tensor? grad_energy, Tensor? grad_cotangent, Tensor h, Tensor y, Tensor weight) "
      "-> (Tensor, Tensor, Tensor)");
  m.def(
      "potential_double_backward(Tensor a, Tensor b, Tensor c, Tensor? grad_energy, Tensor? grad_cotangent, "
      "Tensor h, Tensor y, Tensor weight) -> (Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "propagate(Tensor x, Tensor[] scores, Tensor ancestors, Tensor coefficients, Tensor rng, "
      "Tensor? mask, int first_population, int first_particle) -> (Tensor, Tensor)");
  m.def(
      "resample(Tensor log_weights, Tensor rng, int count, float ess_threshold, int scheme, "
      "int first_population) -> (Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "reversal(Tensor[] scores, Tensor exponents, Tensor levels, Tensor? traces, Tensor[] products, "
      "Tensor? probes) -> (Tensor, Tensor)");
  m.def("score_gram(Tensor scores, Tensor? displacement) -> (Tensor, Tensor)");
  m.def(
      "signs(Tensor like, Tensor rng, int count, int rows, int columns, int stream, int first_population, "
      "int first_particle) -> Tensor");
  m.def(
      "systematic_resample(Tensor log_weights, Tensor uniform, float ess_threshold) "
      "-> (Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "weigh_and_resample(Tensor log_weights, Tensor log_z, Tensor ancestors, Tensor root, Tensor resampled, "
      "Tensor degenerate, Tensor ratio, Tensor[] energies, Tensor[] energies_before, Tensor? exponents, Tensor rng, "
      "bool weigh, float ess_threshold, int scheme, int first_population) "
      "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
}
