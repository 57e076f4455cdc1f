// Inner products of up to nine vectors at once, summed in float64 in an order that depends on d alone. Products of two
// floats are exact in double, so only the additions round.
#pragma once
#include <cstdint>
#include <cstring>

#include "../include/multiversion.h"
#include "../include/portable.h"

namespace edmfast {

constexpr int kMaxScores = 8;
constexpr int kMaxVectors = kMaxScores + 1;  // the displacement comes last
constexpr int kLanes = 8;
constexpr int kHalves = 2;

// Half of the lanes: one register of AVX2. Functions take it by reference, since passing it by value has no stable
// ABI.
typedef double Quad __attribute__((vector_size(kLanes / kHalves * sizeof(double))));

// pair[i][j] for i <= j: i is a score, j a score or the displacement; element k goes to lane k % kLanes
struct Sums {
  Quad pair[kMaxScores][kMaxVectors][kHalves];
};

template <class T>
EDMFAST_HD void load(const T* from, Quad& to) {
  // spelled out, since GCC makes two conversions and an insertion of __builtin_convertvector
  to = Quad{from[0], from[1], from[2], from[3]};
}

// Adds the products of rows first..first+kRows with columns column..column+kColumns. Where the two ranges start
// together, the rows are the first columns, and only j >= i is computed. One pass sums kAtOnce halves of the lanes, so
// that all sums stay in registers.
template <int kRows, int kColumns, bool kTriangle, int kAtOnce, class T>
EDMFAST_HD void add_tile(const T* const* vectors, int first, int column, int64_t n, bool first_piece, Sums& sums) {
  for (int half = 0; half < kHalves; half += kAtOnce) {
    Quad sum[kRows][kColumns][kAtOnce];
    for (int i = 0; i < kRows; ++i)
      for (int j = kTriangle ? i : 0; j < kColumns; ++j)
        for (int h = 0; h < kAtOnce; ++h)
          sum[i][j][h] = first_piece ? Quad{} : sums.pair[first + i][column + j][half + h];
    for (int64_t at = half * 4; at < n; at += kLanes) {
      for (int h = 0; h < kAtOnce; ++h) {
        Quad row[kRows], other;
        for (int i = 0; i < kRows; ++i) load(vectors[first + i] + at + h * 4, row[i]);
        for (int j = 0; j < kColumns; ++j) {
          if (kTriangle && j < kRows) {
            other = row[j];
          } else {
            load(vectors[column + j] + at + h * 4, other);
          }
          for (int i = 0; i < kRows; ++i)
            if (!kTriangle || j >= i) sum[i][j][h] += row[i] * other;
        }
      }
    }
    for (int i = 0; i < kRows; ++i)
      for (int j = kTriangle ? i : 0; j < kColumns; ++j)
        for (int h = 0; h < kAtOnce; ++h) sums.pair[first + i][column + j][half + h] = sum[i][j][h];
  }
}

template <int kRows, class T>
EDMFAST_HD void add_triangle(const T* const* vectors, int first, int columns, int64_t n, bool first_piece,
                             Sums& sums) {
  constexpr int kAtOnce = kRows <= 3 ? 2 : 1;
  if (columns == kRows) return add_tile<kRows, kRows, true, kAtOnce>(vectors, first, first, n, first_piece, sums);
  add_tile<kRows, kRows + 1, true, kAtOnce>(vectors, first, first, n, first_piece, sums);
}

template <class T>
EDMFAST_HD void add_last_triangle(const T* const* vectors, int first, int rows, int columns, int64_t n,
                                  bool first_piece, Sums& sums) {
  switch (rows) {
    case 1: return add_triangle<1>(vectors, first, columns, n, first_piece, sums);
    case 2: return add_triangle<2>(vectors, first, columns, n, first_piece, sums);
    case 3: return add_triangle<3>(vectors, first, columns, n, first_piece, sums);
    default: return add_triangle<4>(vectors, first, columns, n, first_piece, sums);
  }
}

// Makes several passes over a piece, which is short enough to stay in the first cache.
template <class T>
EDMFAST_HD void add_products_body(const T* const* vectors, int scores, int count, int64_t n, bool first_piece,
                                  Sums& sums) {
  if (scores <= 4) return add_last_triangle(vectors, 0, scores, count, n, first_piece, sums);
  add_tile<4, 4, true, 1>(vectors, 0, 0, n, first_piece, sums);
  switch (count - 4) {
    case 1: add_tile<4, 1, false, 2>(vectors, 0, 4, n, first_piece, sums); break;
    case 2: add_tile<4, 2, false, 2>(vectors, 0, 4, n, first_piece, sums); break;
    case 3: add_tile<4, 3, false, 2>(vectors, 0, 4, n, first_piece, sums); break;
    case 4: add_tile<4, 4, false, 1>(vectors, 0, 4, n, first_piece, sums); break;
    default: add_tile<4, 5, false, 1>(vectors, 0, 4, n, first_piece, sums);
  }
  add_last_triangle(vectors, 4, scores - 4, count - 4, n, first_piece, sums);
}

// `scores` of the `count` vectors are rows; n is a multiple of kLanes; the first piece starts from zero.
EDMFAST_MULTIVERSION inline void add_products(const float* const* vectors, int scores, int count, int64_t n,
                                              bool first_piece, Sums& sums) {
  add_products_body(vectors, scores, count, n, first_piece, sums);
}
EDMFAST_MULTIVERSION inline void add_products(const double* const* vectors, int scores, int count, int64_t n,
                                              bool first_piece, Sums& sums) {
  add_products_body(vectors, scores, count, n, first_piece, sums);
}

// Adds up the lanes and writes G [M, M] and n [M] of one row.
EDMFAST_MULTIVERSION inline void store_sums(const Sums& sums, int scores, int count, double* gram, double* along) {
  for (int i = 0; i < scores; ++i)
    for (int j = i; j < count; ++j) {
      const Quad part = sums.pair[i][j][0] + sums.pair[i][j][1];
      const double sum = (part[0] + part[2]) + (part[1] + part[3]);
      if (j == scores) {
        along[i] = sum;
      } else {
        gram[i * scores + j] = gram[j * scores + i] = sum;
      }
    }
}

}  // namespace edmfast
