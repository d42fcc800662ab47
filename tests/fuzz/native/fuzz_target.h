// The sizes with which the fuzz targets call the functions under test.
#pragma once

#include "random_cases.h"

// Returns small sizes mostly: many small cases find more in a second than a few large ones.
inline Most sizes(Random& random) { return random.chance(32) ? Most{20, 20, 300, 3000} : Most{6, 6, 30, 40}; }
