// How many models one operator combines at most.
#pragma once

namespace edmfast {

constexpr int kMaxModels = 8;

}  // namespace edmfast
