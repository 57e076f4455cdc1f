// Energy and score of a residual perceptron by hand: a block of rows goes forward and back through all layers
// while its activations stay in the second-level cache. Matrix products are torch's.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <array>
#include <tuple>
#include <vector>

#include "allocate.h"
#include "mlp_kernels.h"
#include "potential_kernels.h"

namespace edmfast {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Rows of a block; their slopes of eight layers of 128 numbers take 2 MB. Matrix libraries switch kernels for
// fewer rows than kLeast and for rows left over from kTile, which would change a sample's bits.
constexpr int64_t kBlock = 512, kLeast = 32, kTile = 16;

void product(const Tensor& left, const Tensor& right, const Tensor& out) {
  std::array<StableIValue, 3> stack{torch::stable::detail::from(left), torch::stable::detail::from(right),
                                    torch::stable::detail::from(out)};
  STD_TORCH_CHECK(torch_call_dispatcher("aten::mm", "out", stack.data(), TORCH_ABI_VERSION) == 0, "mm failed");
  // the dispatcher hands back a reference to out, which is ours to release
  torch::stable::detail::to<Tensor>(stack[0]);
}

template <class T>
T* data(const Tensor& tensor, int64_t offset = 0) {
  return static_cast<T*>(tensor.data_ptr()) + offset;
}

struct Network {
  Tensor entry, entry_bias, exit, exit_bias;  // [W, d], [W], [d, W], [d]
  std::vector<Tensor> layers;                 // [W, W]
  Tensor entry_t, exit_t;
  std::vector<Tensor> layers_t;

  Network(const Tensor& entry_, const Tensor& entry_bias_, std::vector<Tensor> layers_, const Tensor& exit_,
          const Tensor& exit_bias_)
      : entry(torch::stable::contiguous(entry_)),
        entry_bias(torch::stable::contiguous(entry_bias_)),
        exit(torch::stable::contiguous(exit_)),
        exit_bias(torch::stable::contiguous(exit_bias_)),
        layers(std::move(layers_)),
        entry_t(torch::stable::transpose(entry, 0, 1)),
        exit_t(torch::stable::transpose(exit, 0, 1)) {
    for (Tensor& layer : layers) {
      layer = torch::stable::contiguous(layer);
      layers_t.push_back(torch::stable::transpose(layer, 0, 1));
    }
  }
};

struct Inputs {
  Tensor y, weight, shifts, coefficients;  // [B, d], [B], [B or 1, depth W], [B, 2]
  Tensor energy, field;                    // [B], [B, d]
};

// Buffers of one block, and the passes over it.
template <class T>
class Block {
 public:
  Block(const Network& net, const Inputs& in, int64_t rows)
      : net_(net), in_(in), rows_(rows), d_(in.y.size(1)), width_(net.entry.size(0)) {
    const ScalarType dtype = in.y.scalar_type();
    hidden_ = empty_cpu({rows, width_}, dtype), moved_ = empty_cpu({rows, width_}, dtype);
    out_ = empty_cpu({rows, d_}, dtype), cotangent_ = empty_cpu({rows, d_}, dtype);
    for (size_t i = 0; i < net.layers.size(); ++i) slopes_.push_back(empty_cpu({rows, width_}, dtype));
  }

  void run(int64_t first) {
    Tensor all = in_.y;
    const Tensor y = torch::stable::narrow(all, 0, first, rows_);
    forward(y, first);
    PotentialRows<T> job{rows_, d_, data<T>(out_), data<T>(y), data<T>(in_.weight, first)};
    job.to_energy = data<T>(in_.energy, first), job.to_cotangent = data<T>(cotangent_);
    potential_rows(job);
    backward();
    // the pullback lies in cotangent_ now: a (w h + pullback) + b y
    const T* pairs = data<T>(in_.coefficients, 2 * first);
    std::vector<T> triples(3 * rows_);
    for (int64_t row = 0; row < rows_; ++row) {
      const T a = pairs[2 * row];
      triples[3 * row] = a * data<T>(in_.weight, first)[row];
      triples[3 * row + 1] = a, triples[3 * row + 2] = pairs[2 * row + 1];
    }
    AssembleRows<T> last{rows_, d_, data<T>(out_), data<T>(cotangent_), data<T>(y), triples.data()};
    last.out = data<T>(in_.field, first * d_);
    assemble_rows(last);
  }

 private:
  void forward(const Tensor& y, int64_t first) {
    product(y, net_.entry_t, hidden_);
    add_rows(data<T>(hidden_), data<T>(net_.entry_bias), rows_, width_, 0);
    const int64_t depth = static_cast<int64_t>(net_.layers.size());
    const int64_t stride = in_.shifts.size(0) == 1 ? 0 : depth * width_;
    for (int64_t l = 0; l < depth; ++l) {
      product(hidden_, net_.layers_t[l], slopes_[l]);
      const T* shift = data<T>(in_.shifts, stride * first + l * width_);
      activate(data<T>(hidden_), data<T>(slopes_[l]), shift, stride, rows_, width_);
    }
    product(hidden_, net_.exit_t, out_);
    add_rows(data<T>(out_), data<T>(net_.exit_bias), rows_, d_, 0);
  }

  // From cotangent_ of the output to that of y, in its place; hidden_ holds the cotangent on the way.
  void backward() {
    const int64_t n = rows_ * width_;
    product(cotangent_, net_.exit, hidden_);
    const T* step = nullptr;
    for (size_t l = net_.layers.size(); l-- > 0;) {
      pull(data<T>(hidden_), step, data<T>(slopes_[l]), data<T>(slopes_[l]), n);
      product(slopes_[l], net_.layers[l], moved_);
      step = data<T>(moved_);
    }
    if (step != nullptr) add_rows(data<T>(hidden_), step, 1, n, 0);
    product(hidden_, net_.entry, cotangent_);
  }

  const Network& net_;
  const Inputs& in_;
  const int64_t rows_, d_, width_;
  Tensor hidden_, moved_, out_, cotangent_;
  std::vector<Tensor> slopes_;
};

// Blocks for all threads, none with rows that a matrix library would treat apart where the batch has none.
int64_t block_rows(int64_t batch) {
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t even = (batch / threads + kTile - 1) / kTile * kTile;
  return std::clamp<int64_t>(even, kLeast, kBlock);
}

std::tuple<Tensor, Tensor> mlp_potential(Tensor y, Tensor weight, Tensor shifts, Tensor coefficients, Tensor entry,
                                         Tensor entry_bias, std::vector<Tensor> layers, Tensor exit,
                                         Tensor exit_bias) {
  const ScalarType dtype = y.scalar_type();
  STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double, "float32 or float64 is needed");
  const Network net(entry, entry_bias, std::move(layers), exit, exit_bias);
  const int64_t batch = y.size(0);
  Inputs in{torch::stable::contiguous(y),
            torch::stable::contiguous(weight),
            torch::stable::contiguous(shifts),
            torch::stable::contiguous(coefficients),
            empty_cpu({batch}, dtype),
            empty_cpu({batch, y.size(1)}, dtype)};
  const int64_t size = block_rows(batch), blocks = std::max<int64_t>(batch > 0, batch / size);
  const auto run = [&](auto sample) {
    using T = decltype(sample);
    torch::stable::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t block = begin; block < end; ++block) {
        const int64_t first = block * size, rows = block + 1 < blocks ? size : batch - first;
        Block<T>(net, in, rows).run(first);
      }
    });
  };
  dtype == ScalarType::Float ? run(float{}) : run(double{});
  return {in.energy, in.field};
}

}  // namespace
}  // namespace edmfast

STABLE_TORCH_LIBRARY_IMPL(edmfast, CPU, m) { m.impl("mlp_potential", TORCH_BOX(&edmfast::mlp_potential)); }
