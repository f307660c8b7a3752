// Models whose sequences lie with several processes, against one process: results, gradients, training, copies,
// refusals.
//
// usage: models_on_ranks_test RANKS
#include <ATen/CPUGeneratorImpl.h>
#include <fmt/format.h>
#include <torch/optim/adamw.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <filesystem>
#include <functional>

#include "longstride/nn.h"
#include "test/op/parallel/processes.h"
#include "test/op/parallel/store_backend.h"

namespace longstride::test {
namespace {

using at::Tensor;

at::Generator seeded(int64_t seed) { return at::make_generator<at::CPUGeneratorImpl>(seed); }

// The sequence of a case, [2, len, ...], and where it is computed: empty group, all of it here.
struct Where {
  int64_t len;
  Sharding cut;  // boundaries may be empty
  RankGroup group;

  Tensor part(const Tensor& whole, int64_t dim = 1) const { return shard(whole, group, cut, dim); }
  CallOptions call() const { return {.boundaries = group ? cut.boundaries : std::vector<int64_t>()}; }
  template <class Model>
  Model placed(Model model) const {
    if (group) place(*model, group, cut.layout);
    return model;
  }
  Tensor sum(const Tensor& own) const {
    std::vector<Tensor> all = {own.detach().clone()};
    if (group) group->allreduce(all)->wait();
    return all[0];
  }
  // Of the sum of the ranks' losses, all parameters' side by side.
  Tensor gradient(torch::nn::Module& model) const {
    std::vector<Tensor> flat;
    for (const Tensor& p : model.parameters()) {
      expect(p.grad().defined(), "every rank has a gradient of every weight");
      flat.push_back(p.grad().defined() ? p.grad().flatten() : at::zeros_like(p).flatten());
    }
    return sum(at::cat(flat));
  }
};

struct Found {
  Tensor out;       // of this rank's rows
  Tensor loss;      // the sum over the ranks
  Tensor gradient;  // the same
};

template <class Model, class Options>
Model seeded_model(const Options& options, at::ScalarType dtype = at::kDouble) {
  torch::manual_seed(4);
  Model model(options);
  model->to(dtype);
  return model;
}

std::pair<Tensor, Tensor> tokens(int64_t len, int64_t seed) {
  const Tensor ids = at::randint(11, {2, len + 1}, seeded(seed), at::TensorOptions(at::kLong));
  Tensor targets = ids.narrow(1, 1, len).clone();
  targets[1].narrow(0, 17, len - 17).fill_(LongNetLMImpl::kIgnored);
  return {ids.narrow(1, 0, len), targets};
}

Tensor embeddings(int64_t len, int64_t width, int64_t seed) {
  return at::randn({2, len, width}, seeded(seed), at::TensorOptions(at::kDouble));
}

LongNetLMConfig lm_config() {
  LongNetLMConfig config;
  config.vocab = 11;
  config.layers = 2;
  MultiheadDilatedAttentionOptions& o = config.layer.attention;
  o.embed_dim = 32;
  o.num_heads = 4;
  o.kv_heads = 2;
  o.attention.pattern =
      Pattern::dilated({4, 16}, {1, 2}, {.causal = true}).with_blocks({BlockPattern(4, LocalWindow{8})});
  o.sinks = true;
  o.qk_norm = true;
  o.positions.max_len = 25;
  return config;
}

Found language_model(const LongNetLMConfig& config, const Where& where, at::ScalarType dtype = at::kDouble) {
  LongNetLM model = where.placed(seeded_model<LongNetLM>(config, dtype));
  if (where.group && where.group->getRank() > 0) torch::manual_seed(where.group->getRank());  // the first one's counts
  const auto [ids, targets] = tokens(where.len, 1);
  const CallOptions call = where.call();
  const Tensor out = model->forward(where.part(ids), call);
  const Tensor loss = model->loss(where.part(ids), where.part(targets), call);
  loss.backward();
  return {out.detach(), where.sum(loss), where.gradient(*model)};
}

Found longnet(LongNetForm form, const Where& where) {
  LongNetConfig config;
  config.form = form;
  config.num_encoder_layers = config.num_decoder_layers = 2;
  MultiheadDilatedAttentionOptions& o = config.layer.attention;
  o.embed_dim = 32;
  o.num_heads = 4;
  o.attention.pattern = Pattern::dilated({4, 16}, {1, 2});
  o.positions.kind = Positions::kXpos;
  o.positions.max_len = 25;
  config.layer.dim_feedforward = 16;
  config.activation_checkpointing = form == LongNetForm::kEncoderDecoder;
  LongNet model = where.placed(seeded_model<LongNet>(config));
  const Tensor source = where.part(embeddings(where.len, 32, 1)), target = where.part(embeddings(where.len, 32, 2));
  const Tensor out = model->forward(source, form == LongNetForm::kEncoderDecoder ? target : Tensor(), where.call());
  const Tensor loss = (out * where.part(embeddings(where.len, 32, 3))).sum();
  loss.backward();
  return {out.detach(), where.sum(loss), where.gradient(*model)};
}

MultiheadDilatedAttentionOptions multihead_options() {
  MultiheadDilatedAttentionOptions o;
  o.embed_dim = 16;
  o.num_heads = 2;
  o.attention.pattern = Pattern::dilated({4, 16}, {1, 2});
  o.attention.softmax_scale = 0.4;
  o.positions.kind = Positions::kRope;
  return o;
}

Found multihead(bool documents, const Where& where) {
  MultiheadDilatedAttention model = where.placed(seeded_model<MultiheadDilatedAttention>(multihead_options()));
  MultiheadCall call{where.call()};
  if (documents) {
    call.cu_seqlens = std::vector<int64_t>{0, 11, where.len};
  } else {
    call.lengths = std::vector<int64_t>{where.len, 14};
  }
  call.position0 = 3;
  call.need_lse = true;
  const auto [out, lse] = model->forward(where.part(embeddings(where.len, 16, 1)), call);
  const Tensor loss = (out * where.part(embeddings(where.len, 16, 2))).sum();
  loss.backward();
  return {at::cat({out.detach().flatten(2), lse->detach().transpose(1, 2)}, 2), where.sum(loss),
          where.gradient(*model)};
}

// Blocks of 4 tokens lie with one rank or with two; two or three ranks divide the heads.
Found learned_blocks(bool causal, const Where& where) {
  MultiheadDilatedAttentionOptions o = multihead_options();
  o.embed_dim = 96;
  o.num_heads = 12;
  o.kv_heads = 6;
  o.attention.pattern = Pattern::dilated({4, 16}, {1, 2}, {.causal = causal});
  o.attention.learned = LearnedBlocks{.block_size = 4, .density = 0.5, .hidden = 8};
  if (causal) {
    o.attention.learned->min_density = 0.2;
    o.attention.learned->max_density = 0.7;
    o.attention.attention_dropout = 0.3;
  }
  MultiheadDilatedAttention model = where.placed(seeded_model<MultiheadDilatedAttention>(o));
  if (where.group && where.group->getRank() > 0) torch::manual_seed(where.group->getRank());  // the first one's counts
  MultiheadCall call{where.call()};
  if (!causal) call.lengths = std::vector<int64_t>{where.len, 14};
  BlockChoice choice;
  call.choice = &choice;
  const Tensor out = model->forward(where.part(embeddings(where.len, 96, 1)), call).first;
  const Tensor loss = (out * where.part(embeddings(where.len, 96, 2))).sum() + 3 * choice.density_loss;
  loss.backward();
  return {out.detach(), where.sum(loss), where.gradient(*model)};
}

struct Model {
  std::string name;
  std::function<Found(const Where&)> run;
  double tolerance = 1e-12;
};

std::vector<Model> models() {
  const LongNetLMConfig plain = lm_config();
  LongNetLMConfig checkpointing = plain, without = plain;
  checkpointing.activation_checkpointing = true;
  checkpointing.tied_head = true;
  without.layer.attention.positions.kind = Positions::kNone;
  LongNetLMConfig alibi = plain;  // two or three ranks divide its heads
  alibi.layer.attention.embed_dim = 48;
  alibi.layer.attention.num_heads = alibi.layer.attention.kv_heads = 6;
  alibi.layer.attention.positions.kind = Positions::kAlibi;
  LongNetLMConfig dropping = alibi, dropped_again = alibi;
  dropping.layer.attention.positions.kind = Positions::kRope;
  for (LongNetLMConfig* config : {&dropping, &dropped_again}) config->layer.attention.attention.attention_dropout = 0.3;
  dropped_again.activation_checkpointing = true;
  return {{"LongNetLM", [=](const Where& w) { return language_model(plain, w); }},
          {"LongNetLM with checkpointing", [=](const Where& w) { return language_model(checkpointing, w); }},
          {"LongNetLM without positions", [=](const Where& w) { return language_model(without, w); }},
          {"LongNetLM with alibi", [=](const Where& w) { return language_model(alibi, w); }},
          {"LongNetLM with dropout of pairs", [=](const Where& w) { return language_model(dropping, w); }},
          {"LongNetLM with dropout of pairs and checkpointing",
           [=](const Where& w) { return language_model(dropped_again, w); }},
          {"LongNetLM in float32", [=](const Where& w) { return language_model(plain, w, at::kFloat); }, 1e-5},
          {"LongNet", [](const Where& w) { return longnet(LongNetForm::kEncoderDecoder, w); }},
          {"LongNet, encoder", [](const Where& w) { return longnet(LongNetForm::kEncoder, w); }},
          {"Learned blocks", [](const Where& w) { return learned_blocks(false, w); }},
          {"Learned blocks, causal", [](const Where& w) { return learned_blocks(true, w); }},
          {"Multihead, lengths", [](const Where& w) { return multihead(false, w); }},
          {"Multihead, documents", [](const Where& w) { return multihead(true, w); }}};
}

std::vector<Where> cuts(const RankGroup& group) {
  std::vector<int64_t> uneven = {0, 17, 25};
  if (group->getSize() == 3) uneven = {0, 11, 11, 25};  // the second shard is empty
  return {{24, {}, group}, {25, {{0, 25}}, group}, {25, {uneven}, group}, {25, {{0, 25}, "zigzag"}, group}};
}

void check_models(const RankGroup& group) {
  for (const Model& model : models()) {
    for (const Where& where : cuts(group)) {
      const std::string name =
          fmt::format("{}, {} of {} boundaries: ", model.name, where.cut.layout, where.cut.boundaries.size());
      const Found whole = model.run({where.len, {}, {}}), own = model.run(where);
      expect(whole.gradient.abs().max().item<double>() > 1e-3, name + "there is a gradient");
      expect_near(own.out, where.part(whole.out), model.tolerance, name + "out");
      expect_near(own.loss, whole.loss, model.tolerance, name + "loss");
      expect_near(own.gradient, whole.gradient, model.tolerance, name + "gradient");
    }
  }
}

// The weights after three steps.
Tensor trained(const Where& where, at::ScalarType dtype) {
  LongNetLM model = where.placed(seeded_model<LongNetLM>(lm_config(), dtype));
  torch::optim::AdamW optimizer(model->parameters(), torch::optim::AdamWOptions(1e-2));
  for (int64_t step = 0; step < 3; ++step) {
    const auto [ids, targets] = tokens(where.len, step);
    optimizer.zero_grad();
    model->loss(where.part(ids), where.part(targets), where.call()).backward();
    for (Tensor& p : model->parameters()) p.mutable_grad() = where.sum(p.grad());
    optimizer.step();
  }
  std::vector<Tensor> flat;
  for (const Tensor& p : model->parameters()) flat.push_back(p.detach().flatten());
  return at::cat(flat);
}

void check_training(const RankGroup& group) {
  for (const auto& [dtype, tolerance] : {std::pair(at::kDouble, 1e-10), {at::kFloat, 1e-4}}) {
    for (const Where& where : {cuts(group)[2], cuts(group)[3]})
      expect_near(trained(where, dtype), trained({where.len, {}, {}}, dtype), tolerance, "three steps of AdamW");
  }
}

// Clones stay placed; what is loaded is placed anew, on any number of ranks.
void check_copies(const RankGroup& group, const std::filesystem::path& folder) {
  const Where where = cuts(group)[3];
  LongNetLM model = where.placed(seeded_model<LongNetLM>(lm_config()));
  const auto [ids, targets] = tokens(where.len, 1);
  const Tensor part = where.part(ids);
  const Tensor out = model->forward(part, where.call());
  const auto copy = std::dynamic_pointer_cast<LongNetLMImpl>(model->clone());
  expect(copy->forward(part, where.call()).equal(out), "a clone stays placed");
  const std::string of_rank = folder / fmt::format("model{}", group->getRank());
  save_model(of_rank, model);
  LongNetLM loaded = load_model<LongNetLM>(of_rank);
  loaded->to(at::kDouble);
  const Tensor whole = loaded->forward(ids);
  expect_near(out, where.part(whole), 1e-12, "what is loaded is with one process");
  place(*loaded, group, "zigzag");
  expect(loaded->forward(part, where.call()).equal(out), "until it is placed");
  place(*copy, {});
  expect(copy->forward(ids).equal(whole), "and back");
}

void check_refusals(const RankGroup& group) {
  const int64_t rank = group->getRank(), ranks = group->getSize();
  LongNetLM model = Where{24, {}, group}.placed(seeded_model<LongNetLM>(lm_config()));
  const Tensor ids = at::zeros({1, 4}, at::kLong), none = at::full({1, 4}, LongNetLMImpl::kIgnored, at::kLong);
  expect_refused("targets must hold one that counts, got none", [&] { model->loss(ids, none); });
  const std::string place =
      rank == 1 ? "" : fmt::format("the count of targets: rank 1 of {} refuses its call: ", ranks);
  const Tensor odd = rank == 1 ? at::full_like(ids, 11) : ids;
  expect_refused(place + "tokens must be in [0, 11), got 11", [&] { model->loss(odd, ids); });
  expect_refused(place + "targets must have the shape of tokens [1, 4], got [1, 3]",
                 [&] { model->loss(ids, rank == 1 ? ids.narrow(1, 0, 3) : ids); });
  expect_refused(place + fmt::format("tokens must have the {} rows of the shard of rank 1, got 3; boundaries", 4), [&] {
    model->loss(rank == 1 ? ids.narrow(1, 0, 3) : ids, ids, {.boundaries = {0, 4 * ranks}});
  });
  expect_refused("tokens must not be longer than max_len 25, got 26; raise max_len in the config", [&] {
    model->forward(at::zeros({1, shard_positions(group, {{0, 26}}).size(0)}, at::kLong), {.boundaries = {0, 26}});
  });
  LongNetLMConfig alibi = lm_config();
  alibi.layer.attention.kv_heads = 1;
  alibi.layer.attention.positions.kind = Positions::kAlibi;
  LongNetLM of_one_head = Where{24, {}, group}.placed(seeded_model<LongNetLM>(alibi));
  expect_refused(
      fmt::format("alibi_slopes must go by exchange heads({0}), for which {0} must divide kv_heads, got 1", ranks),
      [&] { of_one_head->forward(ids); });
  alibi.layer.attention.positions.kind = Positions::kNone;
  alibi.layer.attention.attention.attention_dropout = 0.1;
  LongNetLM dropping = Where{24, {}, group}.placed(seeded_model<LongNetLM>(alibi));
  expect_refused(
      fmt::format("dropout_p must go by exchange heads({0}), for which {0} must divide kv_heads, got 1", ranks),
      [&] { dropping->forward(ids); });
  dropping->eval();
  expect(dropping->forward(ids).size(1) == 4, "drops nothing in eval");
  MultiheadDilatedAttentionOptions learning = multihead_options();
  learning.num_heads = 1;
  learning.attention.learned = LearnedBlocks{.block_size = 4, .density = 0.5};
  MultiheadDilatedAttention scored = Where{24, {}, group}.placed(seeded_model<MultiheadDilatedAttention>(learning));
  const Tensor x = embeddings(8, 16, 1);
  const std::string must_divide = fmt::format(
      "learned blocks must go by exchange heads({0}), for which {0} must divide kv_heads, got 1; take as many", ranks);
  expect_refused(must_divide, [&] { scored->forward(x); });
  for (at::Tensor& weight : scored->attention->scorer->parameters()) weight.requires_grad_(false);
  expect(scored->forward(x).first.size(1) == 8, "a scorer that learns no more needs no heads of all");
  MultiheadCall lengths;
  lengths.lengths = std::vector<int64_t>{8, rank == 1 ? 6 : 5};
  expect_refused("the choice of blocks: lengths must be the same on every rank, got [8,5] on rank",
                 [&] { scored->forward(x, lengths); });
  lengths.lengths = std::vector<int64_t>{8 * ranks, rank == 1 ? -1 : 5};
  expect_refused(rank == 1 ? "lengths must be in [0, " : "the choice of blocks: rank 1 of ",
                 [&] { scored->forward(x, lengths); });
  expect(model->loss(ids, ids).isfinite().item<bool>(), "works after refusals");
}

int of_rank(int rank, int ranks, const std::string& file) {
  const RankGroup group = group_of(file, rank, ranks, "models");
  check_models(group);
  check_training(group);
  check_copies(group, std::filesystem::path(file).parent_path());
  check_refusals(group);
  return failures() == 0 ? 0 : 1;
}

}  // namespace
}  // namespace longstride::test

int main(int count, char** arguments) {
  return longstride::test::run_ranks(count, arguments, longstride::test::of_rank);
}
