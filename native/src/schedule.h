// The order in which the steps of a plan run, and their sharing out among threads.
#pragma once

#include <vector>

#include "plan.h"
#include "pool.h"
#include "workspace.h"

namespace quantsr {

// Runs all steps on the image in its slot. seconds: of each step; time that threads spend side by side, or waiting,
// counts once, so they add up to what the whole took.
void run_plan(const Plan& plan, Workspace& space, Pool& pool, std::vector<double>& seconds);

}  // namespace quantsr
