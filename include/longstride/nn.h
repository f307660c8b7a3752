// Modules over dilated attention, for LibTorch: attention layers, positions, a LongNet language model, generation and
// checkpoints. This is the header that a user includes; the parts can be included by themselves.
#pragma once

#include "longstride/nn/attention.h"
#include "longstride/nn/checkpoint.h"
#include "longstride/nn/generate.h"
#include "longstride/nn/layer.h"
#include "longstride/nn/longnet_lm.h"
#include "longstride/nn/positions.h"
