// The arguments of `signs`, checked, the same on every device.
#pragma once
#include "arguments.h"
#include "signs.h"

namespace edmfast {

struct SignsArguments {
  torch::stable::Tensor rng;
  torch::headeronly::ScalarType dtype;
  int64_t populations, particles, elements;
  int64_t count, draws;   // probes of a particle, and draws among them
  int64_t rows, columns;  // the last two axes of a state, or 0 where all probes are drawn
  int64_t stream, first_population, first_particle;
  bool second = false;  // whether this is the second of two levels that share a draw

  SignsArguments(const torch::stable::Tensor& like, const torch::stable::Tensor& rng_, int64_t count_, int64_t rows_,
                 int64_t columns_, int64_t stream_, int64_t first_population_, int64_t first_particle_)
      : rng(checked_rng(rng_, like)),
        dtype(like.scalar_type()),
        count(count_),
        rows(rows_),
        columns(columns_),
        stream(stream_),
        first_population(first_population_),
        first_particle(first_particle_) {
    using torch::headeronly::ScalarType;
    STD_TORCH_CHECK(like.dim() == 3, "like must be [P, N, d], got ", shape_text(like));
    STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double || dtype == ScalarType::Half ||
                        dtype == ScalarType::BFloat16,
                    "like must be float16, bfloat16, float32 or float64, got ", dtype);
    STD_TORCH_CHECK(stream >= 0 && stream < 16, "stream must be in 0 to 15, got ", stream);
    populations = like.size(0), particles = like.size(1), elements = like.size(2);
    check_populations(first_population, populations);
    check_particles(first_particle, particles);
    STD_TORCH_CHECK(count >= 1 && count < (int64_t{1} << 31), "count must be in 1 to 2^31 - 1, got ", count);
    STD_TORCH_CHECK((rows == 0 && columns == 0) ||
                        (rows > 0 && columns > 0 && rows <= elements && columns <= elements &&
                         elements % rows == 0 && elements / rows % columns == 0) ||
                        (elements == 0 && rows >= 0 && columns >= 0),
                    "rows and columns must be the last two axes of a state, or 0, got ", rows, " and ", columns,
                    " for ", elements, " elements");
    draws = coloured() ? (count + kPatterns - 1) / kPatterns : count;
    STD_TORCH_CHECK(elements < (int64_t{1} << 34) / draws, "one particle has too many signs: ", count, " probes of ",
                    elements, " elements");
  }

  bool coloured() const { return rows > 0; }
  // Two levels share a draw where each has a single probe.
  bool paired() const { return coloured() && count == 1; }
};

}  // namespace edmfast
