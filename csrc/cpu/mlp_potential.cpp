// Energies and fields of residual perceptrons and their derivative, with blocks of rows in cache. gemm.h
// multiplies the matrices where it has a kernel for the processor, and torch elsewhere.
#include <optional>
#include <tuple>

#include "../include/library.h"
#include "mlp_backward.h"
#include "mlp_forward.h"
#include "mlp_probe.h"

namespace edmfast {
namespace {

// Sums over rows are made in at most this many parts, whatever the number of threads, so that their bits do not depend
// on it.
constexpr int64_t kParts = 8;

// Blocks for all threads. None has rows that a matrix library would treat apart, unless the batch has.
int64_t block_rows(int64_t batch, int64_t shares) {
  return std::clamp<int64_t>((batch / shares + kTile - 1) / kTile * kTile, kLeast, kBlock);
}

// Blocks of `size` rows. The last one has fewer rows, or more where those left over would be too few for a block.
struct Blocks {
  int64_t batch, size, count;

  Blocks(int64_t batch_, int64_t size_) : batch(batch_), size(size_) {
    count = std::max<int64_t>(batch > 0, (batch + size - kLeast) / size);
  }
  int64_t first(int64_t block) const { return block * size; }
  int64_t rows(int64_t block) const { return block + 1 < count ? size : batch - first(block); }
};

template <class Job>
void by_type(const Tensor& x, Job job) {
  x.scalar_type() == ScalarType::Float ? job(float{}) : job(double{});
}

std::tuple<Tensor, Tensor, Tensor> mlp_potential(Tensor x, Tensor coefficients, Tensors shifts, Tensors entry,
                                                 Tensors entry_bias, Tensors layers, Tensors exit,
                                                 Tensors exit_bias, bool save) {
  const Sizes sizes = sizes_of(x, entry, layers);
  check_networks(sizes, x, coefficients, shifts, entry, entry_bias, layers, exit, exit_bias);
  const ScalarType dtype = x.scalar_type();
  const auto nets = networks(shifts, entry, entry_bias, layers, exit, exit_bias);
  const Tensor states = plain(x), numbers = plain(coefficients);
  const Tensor energy = empty_cpu({sizes.models, sizes.batch}, dtype);
  const Tensor field = empty_cpu({sizes.models, sizes.batch, sizes.d}, dtype);
  const Tensor kept = save ? empty_cpu({sizes.models * sizes.slots() * sizes.batch, sizes.width}, dtype)
                           : empty_cpu({0}, dtype);
  const int64_t threads = torch::stable::get_num_threads();
  const Blocks blocks(sizes.batch, block_rows(sizes.batch, std::max<int64_t>(1, threads / sizes.models)));
  by_type(x, [&](auto sample) {
    using T = decltype(sample);
    with_own_products(sizes.models * blocks.count, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t model = task / blocks.count, block = task % blocks.count;
        const int64_t first = blocks.first(block), rows = blocks.rows(block), row = model * sizes.batch + first;
        const Saved saved{kept, sizes.batch, model * sizes.slots() * sizes.batch + first};
        Forward<T>(sizes, rows)
            .run(nets[model], data<T>(states, first * sizes.d), Coefficients<T>(numbers, model, first, rows), first,
                 data<T>(energy, row), data<T>(field, row * sizes.d), save ? &saved : nullptr);
      }
    });
  });
  return {energy, field, kept};
}

std::tuple<Tensor, Tensor, Tensor> mlp_potential_probe(Tensor x, Tensor v, Tensor coefficients, Tensors shifts,
                                                       Tensors entry, Tensors entry_bias, Tensors layers,
                                                       Tensors exit, Tensors exit_bias) {
  const Sizes sizes = sizes_of(x, entry, layers);
  check_networks(sizes, x, coefficients, shifts, entry, entry_bias, layers, exit, exit_bias);
  const ScalarType dtype = x.scalar_type();
  check_tensor(v, "v", dtype, {sizes.batch, sizes.d}, x);
  const auto nets = networks(shifts, entry, entry_bias, layers, exit, exit_bias);
  const Tensor states = plain(x), along = plain(v), numbers = plain(coefficients);
  const Tensor energy = empty_cpu({sizes.models, sizes.batch}, dtype);
  const Tensor field = empty_cpu({sizes.models, sizes.batch, sizes.d}, dtype);
  const Tensor bent = empty_cpu({sizes.models, sizes.batch}, ScalarType::Double);
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t shares = std::max<int64_t>(1, threads / sizes.models);
  const Blocks blocks(sizes.batch, block_rows(sizes.batch, shares));
  by_type(x, [&](auto sample) {
    using T = decltype(sample);
    with_own_products(sizes.models * blocks.count, [&](int64_t begin, int64_t end) {
      std::optional<Probe<T>> probe;
      int64_t last = -1;
      for (int64_t task = begin; task < end; ++task) {
        const int64_t model = task / blocks.count, block = task % blocks.count;
        const int64_t first = blocks.first(block), rows = blocks.rows(block), row = model * sizes.batch + first;
        if (rows != last) probe.emplace(sizes, rows, dtype);
        last = rows;
        probe->run(nets[model], data<T>(states, first * sizes.d), data<T>(along, first * sizes.d),
                   Coefficients<T>(numbers, model, first, rows), first, data<T>(energy, row),
                   data<T>(field, row * sizes.d), data<double>(bent, row));
      }
    });
  });
  return {energy, field, bent};
}

// The states that the forward has saved of a block, recomputed where it has saved none.
template <class T>
std::vector<Tensor> saved_of(const Sizes& sizes, const Network& net, const Tensor& kept, const T* x,
                             const Coefficients<T>& numbers, int64_t model, int64_t first, int64_t rows) {
  Saved saved{kept, sizes.batch, model * sizes.slots() * sizes.batch + first};
  if (kept.numel() == 0) {
    saved = Saved{empty_cpu({sizes.slots() * rows, sizes.width}, net.entry.scalar_type()), rows, 0};
    std::vector<T> energy(rows);
    Forward<T>(sizes, rows).run(net, x, numbers, first, energy.data(), nullptr, &saved);
  }
  std::vector<Tensor> slots;
  for (int64_t slot = 0; slot < sizes.slots(); ++slot) slots.push_back(saved.slot(slot, rows));
  return slots;
}

// The parts one after the other, each at the place of the model in its tensor.
template <class T>
void add_up(const std::vector<WeightGradients<T>>& parts, int64_t model, const Sizes& s,
            const std::array<Tensor, 6>& out) {
  const std::array<std::pair<T* WeightGradients<T>::*, int64_t>, 6> fields{{
      {&WeightGradients<T>::shifts, s.depth * s.width},
      {&WeightGradients<T>::entry, s.width * s.d},
      {&WeightGradients<T>::entry_bias, s.width},
      {&WeightGradients<T>::layers, s.depth * s.width * s.width},
      {&WeightGradients<T>::exit, s.d * s.width},
      {&WeightGradients<T>::exit_bias, s.d},
  }};
  for (size_t i = 0; i < fields.size(); ++i) {
    const auto [field, count] = fields[i];
    if (i == 0 && (parts.empty() ? out[0].size(1) != 1 : parts[0].shifts == nullptr)) continue;
    T* to = data<T>(out[i], model * count);
    std::fill_n(to, count, T{0});
    for (const auto& part : parts) add_rows(to, part.*field, 1, count, 0);
  }
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> mlp_potential_backward(
    Tensor grad_energy, Tensor grad_field, Tensor x, Tensor coefficients, Tensors shifts, Tensors entry,
    Tensors entry_bias, Tensors layers, Tensors exit, Tensors exit_bias, Tensor saved, bool inputs, bool weights) {
  const Sizes s = sizes_of(x, entry, layers);
  check_networks(s, x, coefficients, shifts, entry, entry_bias, layers, exit, exit_bias);
  const ScalarType dtype = x.scalar_type();
  check_tensor(grad_energy, "grad_energy", dtype, {s.models, s.batch}, x);
  check_tensor(grad_field, "grad_field", dtype, {s.models, s.batch, s.d}, x);
  if (saved.numel() > 0) check_tensor(saved, "saved", dtype, {s.models * s.slots() * s.batch, s.width}, x);
  const auto nets = networks(shifts, entry, entry_bias, layers, exit, exit_bias);
  const Tensor states = plain(x), numbers = plain(coefficients), kept = plain(saved);
  const Tensor e = plain(grad_energy), v = plain(grad_field);
  const auto none = [&] { return empty_cpu({0}, dtype); };  // two outputs may not be one tensor
  const bool shared = shifts[0].size(0) == 1, one = coefficients.size(1) == 1;
  const Tensor to_x = inputs ? empty_cpu({s.batch, s.d}, dtype) : none();
  const Tensor each = inputs ? empty_cpu({s.models, s.batch, 4}, dtype) : none();
  const Tensor to_numbers = inputs && one ? empty_cpu({s.models, 1, 4}, dtype) : each;
  std::array<Tensor, 6> out{none(), none(), none(), none(), none(), none()};
  if (weights) {
    out = {empty_cpu({s.models, shared ? 1 : s.batch, s.depth * s.width}, dtype),
           empty_cpu({s.models, s.width, s.d}, dtype),
           empty_cpu({s.models, s.width}, dtype),
           empty_cpu({s.models, s.depth, s.width, s.width}, dtype),
           empty_cpu({s.models, s.d, s.width}, dtype),
           empty_cpu({s.models, s.d}, dtype)};
  }
  // backward holds twice as much for each row as forward, so its blocks have half as many
  const int64_t threads = torch::stable::get_num_threads();
  // sums for weights depend on the blocks, so these must not depend on the number of threads
  const int64_t shares = weights ? kParts / 2 : std::clamp<int64_t>(threads, kParts / 2, kParts);
  const int64_t least = weights || threads == 1 ? kBlock / 4 : kLeast;
  const Blocks blocks(s.batch, std::clamp<int64_t>(block_rows(s.batch, shares), least, kBlock / 2));
  const int64_t parts = std::min(blocks.count, kParts);
  by_type(x, [&](auto sample) {
    using T = decltype(sample);
    if (inputs) std::fill_n(data<T>(to_x), s.batch * s.d, T{0});
    std::vector<std::vector<WeightGradients<T>>> sums(s.models);
    for (auto& model : sums) {
      for (int64_t part = 0; weights && part < parts; ++part) model.emplace_back(s, shared);
    }
    with_own_products(parts, [&](int64_t begin, int64_t end) {
      for (int64_t part = begin; part < end; ++part) {
        std::optional<Backward<T>> backward;
        int64_t last = -1;
        for (int64_t block = part * blocks.count / parts; block < (part + 1) * blocks.count / parts; ++block) {
          const int64_t first = blocks.first(block), rows = blocks.rows(block);
          if (rows != last) backward.emplace(s, rows, dtype, weights);
          last = rows;
          for (int64_t model = 0; model < s.models; ++model) {
            const Coefficients<T> four(numbers, model, first, rows);
            const int64_t row = model * s.batch + first;
            BlockGradients<T> job{data<T>(states, first * s.d), data<T>(e, row), data<T>(v, row * s.d)};
            if (inputs) job.to_x = data<T>(to_x, first * s.d), job.to_numbers = data<T>(each, 4 * row);
            if (weights) job.weights = &sums[model][part];
            if (weights && !shared) job.to_shifts = data<T>(out[0], row * s.depth * s.width);
            backward->run(nets[model], four, job, saved_of<T>(s, nets[model], kept, job.x, four, model, first, rows));
          }
        }
      }
    });
    for (int64_t model = 0; model < s.models; ++model) {
      if (weights) add_up(sums[model], model, s, out);
      if (!(inputs && one)) continue;
      for (int64_t column = 0; column < 4; ++column) {
        double sum = 0;
        for (int64_t row = 0; row < s.batch; ++row) sum += data<T>(each, 4 * (model * s.batch + row))[column];
        data<T>(to_numbers, 4 * model)[column] = static_cast<T>(sum);
      }
    }
  });
  return {to_x, to_numbers, out[0], out[1], out[2], out[3], out[4], out[5]};
}

}  // namespace
}  // namespace edmfast

EDMFAST_KERNELS(CPU, m) {
  m.impl("mlp_potential", TORCH_BOX(&edmfast::mlp_potential));
  m.impl("mlp_potential_backward", TORCH_BOX(&edmfast::mlp_potential_backward));
  m.impl("mlp_potential_probe", TORCH_BOX(&edmfast::mlp_potential_probe));
}
