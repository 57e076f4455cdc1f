// The Python module under which a build for the Hugging Face hub loads the operators. kernel-builder writes
// registration.h.
#include "registration.h"

REGISTER_EXTENSION(TORCH_EXTENSION_NAME)
