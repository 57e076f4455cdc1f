// The largest number of models that one operator combines.
#pragma once

namespace edmfast {

constexpr int kMaxModels = 8;

}  // namespace edmfast
