// Modules by name, configs, and the constructors of dilated-attention-pytorch. This is the header that a user includes;
// the parts can be included by themselves.
#pragma once

#include "longstride/factory/configs.h"
#include "longstride/factory/create.h"
#include "longstride/factory/legacy.h"
#include "longstride/factory/options.h"
#include "longstride/factory/registry.h"
#include "longstride/factory/rings.h"
