// Modules over dilated attention, for LibTorch: attention layers, transformer layers, LongNet, its language model,
// positions, generation and checkpoints. This is the header that a user includes; the parts can be included by
// themselves.
#pragma once

#include "longstride/nn/attention.h"
#include "longstride/nn/checkpoint.h"
#include "longstride/nn/generate.h"
#include "longstride/nn/layer.h"
#include "longstride/nn/learned_blocks.h"
#include "longstride/nn/longnet.h"
#include "longstride/nn/longnet_lm.h"
#include "longstride/nn/placement.h"
#include "longstride/nn/positions.h"
#include "longstride/nn/transformer.h"
