// Inner products of vectors of at most four elements: four particles at a time, one in each lane.
#pragma once
#include <type_traits>

#include "gram_kernels.h"

// GCC writes the lanes of a register one by one and takes the first write for a use of the other lanes.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

namespace edmfast {

constexpr int kPointElements = 4;
constexpr int kPointRows = 4;

// Each constructor reads two registers, so that it compiles to one shuffle.
EDMFAST_HD void transpose(const Quad* in, Quad* out) {
  const Quad even_low{in[0][0], in[1][0], in[0][2], in[1][2]}, odd_low{in[0][1], in[1][1], in[0][3], in[1][3]};
  const Quad even_high{in[2][0], in[3][0], in[2][2], in[3][2]}, odd_high{in[2][1], in[3][1], in[2][3], in[3][3]};
  out[0] = Quad{even_low[0], even_low[1], even_high[0], even_high[1]};
  out[1] = Quad{odd_low[0], odd_low[1], odd_high[0], odd_high[1]};
  out[2] = Quad{even_low[2], even_low[3], even_high[2], even_high[3]};
  out[3] = Quad{odd_low[2], odd_low[3], odd_high[2], odd_high[3]};
}

// Turns four particles of kElements each into one register for each element.
template <int kElements, class T>
EDMFAST_HD void turn(const T* from, Quad* x) {
  if constexpr (kElements == 2) {
    Quad low, high;
    load(from, low);
    load(from + 4, high);
    x[0] = Quad{low[0], low[2], high[0], high[2]};
    x[1] = Quad{low[1], low[3], high[1], high[3]};
  } else if constexpr (kElements == 4) {
    Quad row[4];
    for (int r = 0; r < 4; ++r) load(from + 4 * r, row[r]);
    transpose(row, x);
  } else {
    for (int k = 0; k < kElements; ++k)
      x[k] = Quad{from[k], from[kElements + k], from[2 * kElements + k], from[3 * kElements + k]};
  }
}

// Turns one register for each column into four rows of kColumns; the last four columns may be written twice.
template <int kColumns>
EDMFAST_HD void store_rows(const Quad* column, double* to) {
  if constexpr (kColumns < 4) {
    for (int r = 0; r < 4; ++r)
      for (int c = 0; c < kColumns; ++c) to[r * kColumns + c] = column[c][r];
  } else {
    for (int start = 0; start < kColumns; start += 4) {
      const int c = start < kColumns - 4 ? start : kColumns - 4;
      Quad row[4];
      transpose(column + c, row);
      for (int r = 0; r < 4; ++r) std::memcpy(to + r * kColumns + c, &row[r], sizeof(Quad));
    }
  }
}

template <int kElements>
EDMFAST_HD void multiply(const Quad* a, const Quad* b, Quad& product) {
  product = a[0] * b[0];
  for (int k = 1; k < kElements; ++k) product += a[k] * b[k];
}

template <int kScores, int kElements, class T>
EDMFAST_HD void four_points(const T* const* vectors, int count, int64_t row, double* gram, double* along) {
  Quad x[kScores + 1][kElements], products[kScores][kScores], shifts[kScores];
  for (int i = 0; i < kScores; ++i) turn<kElements>(vectors[i] + row * kElements, x[i]);
  for (int i = 0; i < kScores; ++i)
    for (int j = i; j < kScores; ++j) {
      multiply<kElements>(x[i], x[j], products[i][j]);
      products[j][i] = products[i][j];
    }
  store_rows<kScores * kScores>(&products[0][0], gram + row * kScores * kScores);
  if (count == kScores) return;
  turn<kElements>(vectors[kScores] + row * kElements, x[kScores]);
  for (int i = 0; i < kScores; ++i) multiply<kElements>(x[i], x[kScores], shifts[i]);
  store_rows<kScores>(shifts, along + row * kScores);
}

template <int kScores, class T>
EDMFAST_HD void points_body(const T* const* vectors, int count, int64_t elements, int64_t rows, double* gram,
                            double* along) {
  const auto all = [&](auto size) __attribute__((always_inline)) {
    for (int64_t row = 0; row < rows; row += kPointRows)
      four_points<kScores, size>(vectors, count, row, gram, along);
  };
  switch (elements) {
    case 1: return all(std::integral_constant<int, 1>{});
    case 2: return all(std::integral_constant<int, 2>{});
    case 3: return all(std::integral_constant<int, 3>{});
    default: return all(std::integral_constant<int, 4>{});
  }
}

template <class T>
EDMFAST_HD void points_any(const T* const* vectors, int scores, int count, int64_t elements, int64_t rows,
                           double* gram, double* along) {
  switch (scores) {
    case 1: return points_body<1>(vectors, count, elements, rows, gram, along);
    case 2: return points_body<2>(vectors, count, elements, rows, gram, along);
    case 3: return points_body<3>(vectors, count, elements, rows, gram, along);
    case 4: return points_body<4>(vectors, count, elements, rows, gram, along);
    case 5: return points_body<5>(vectors, count, elements, rows, gram, along);
    case 6: return points_body<6>(vectors, count, elements, rows, gram, along);
    case 7: return points_body<7>(vectors, count, elements, rows, gram, along);
    default: return points_body<8>(vectors, count, elements, rows, gram, along);
  }
}

// `rows` is a multiple of kPointRows; `along` is not written where no displacement follows the scores.
EDMFAST_MULTIVERSION inline void points(const float* const* vectors, int scores, int count, int64_t elements,
                                        int64_t rows, double* gram, double* along) {
  points_any(vectors, scores, count, elements, rows, gram, along);
}
EDMFAST_MULTIVERSION inline void points(const double* const* vectors, int scores, int count, int64_t elements,
                                        int64_t rows, double* gram, double* along) {
  points_any(vectors, scores, count, elements, rows, gram, along);
}

}  // namespace edmfast

#pragma GCC diagnostic pop
