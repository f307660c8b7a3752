"""Learned blocks: what a scorer chooses, and that attention and its gradients are those of the chosen blocks."""

import copy
import json
import math
import pathlib

import definition
import pytest
import torch
from safetensors.torch import load_file
from support import close

import longstride as ls
from longstride import factory
from longstride.nn import BlockScorer, DilatedAttention, MultiheadDilatedAttention, TransformerLayer, load_model, save_model

SAVED = pathlib.Path(__file__).resolve().parent / "saved_learned"  # by the C++ module, with what it read and computed
SMALL = {"block_size": 8, "density": 0.25, "hidden": 16, "head_dim": 8, "kv_heads": 2}
OF_HEADS = {"block_size": 8, "density": 0.25, "hidden": 16}


@pytest.fixture(autouse=True)
def seeded():
    """Parameters and noise are the same in any order of the tests."""
    torch.manual_seed(1)


def made(*shape, seed=1, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def inputs(batch, n, dtype=torch.float32):
    heads = ((4, 1), (2, 2), (2, 3))
    return tuple(made(batch, n, h, 8, seed=seed, dtype=dtype) for h, seed in heads)


def mask_of(choice):
    """bool, shaped as the scores: the chosen blocks."""
    mask = torch.zeros(choice.scores.shape, dtype=torch.bool)
    mask[tuple(choice.blocks.long().unbind(1))] = True
    return mask


@pytest.mark.parametrize("causal", (False, True))
@pytest.mark.parametrize("training", (False, True))
def test_it_takes_its_density_to_the_block_with_the_diagonal(causal, training):
    scorer = BlockScorer(**SMALL, causal=causal).train(training)
    for n in (0, 1, 7, 64, 160, 157):
        q, k, _ = inputs(3, n)
        choice = scorer(q, k)
        nb = -(-n // 8)
        pairs = nb * (nb + 1) / 2 if causal else nb * nb
        mask = mask_of(choice)
        assert mask.sum() == len(choice.blocks) == len(choice.gates), "no block twice"
        assert mask.diagonal(0, 2, 3).all()
        assert nb < 2 or ((mask.sum((2, 3)) - 0.25 * pairs).abs() <= 0.5).all()
        assert not causal or not mask.triu(1).any()
        assert (choice.gates == 1).all() and choice.blocks.dtype == torch.int32


def test_the_best_of_every_row_within_its_bounds():
    scorer = BlockScorer(**SMALL, min_density=0.125, max_density=0.5).eval()
    q, k, _ = inputs(3, 128)
    counts = set()
    for shift in (-0.7, 0.0, 0.7):
        with torch.no_grad():
            scorer.bias.fill_(shift)
        choice = scorer(q, k)
        for place, row in enumerate(choice.scores.detach().reshape(-1, 16)):
            row = row.clone()
            row[place % 16] = math.inf
            # 16 blocks: an eighth are 2 a row, a half are 8.
            best = row.argsort(descending=True)[:8].tolist()
            wanted = {j for at, j in enumerate(best) if at < 2 or row[j] > 0}
            assert set(mask_of(choice).reshape(-1, 16)[place].nonzero().flatten().tolist()) == wanted
            counts.add(len(wanted))
    assert len(counts) >= 5, "rows must differ here, or the case shows nothing"


def test_scores_are_what_cpp_computes():
    """Scores, choice and density_loss of the C++ module for its own weights and numbers."""
    run = load_file(SAVED / "run.safetensors")
    module = load_model(SAVED).eval()
    assert isinstance(module, DilatedAttention)
    choices = []
    out, lse = module(run["q"], run["k"], run["v"], lengths=run["lengths"], choices=choices)
    (choice,) = choices
    assert torch.equal(choice.blocks, run["blocks"])
    close(choice.scores, run["scores"], 1e-6)
    close(choice.density_loss.reshape(1), run["density_loss"], 1e-6)
    close(out, run["out"], 1e-5)
    close(lse.nan_to_num(neginf=0), run["lse"].nan_to_num(neginf=0), 1e-5)


@pytest.mark.parametrize("causal", (False, True))
@pytest.mark.parametrize("short", (61, 30))
@pytest.mark.parametrize("beside", (False, True))
def test_attention_over_its_blocks_and_its_gradients(causal, short, beside):
    groups = ([24], [3]) if beside else ([], [])
    module = DilatedAttention(*groups, causal=causal, learned=SMALL, dtype=torch.float64)
    q, k, v = (x.requires_grad_() for x in inputs(2, 61, torch.float64))
    lengths = None if short == 61 else [61, short]
    choices = []
    out, lse = module(q, k, v, lengths=lengths, choices=choices)
    rule = {"pattern": "list", "block_size": 8, "blocks": choices[0].blocks.tolist()}
    whole = {"causal": causal, "blocks": [rule]}
    if beside:
        whole["dilated"] = {"segment_lengths": [24], "dilation_rates": [3]}
    wanted, wanted_lse = definition.attention(q, k, v, whole, lengths=lengths)
    close(out, wanted, 1e-12)
    close(lse.nan_to_num(neginf=0), wanted_lse.nan_to_num(neginf=0), 1e-12)
    d = made(*out.shape, seed=9, dtype=torch.float64)
    gradients = (torch.autograd.grad((x * d).sum(), (q, k, v)) for x in (out, wanted))
    for got, want in zip(*gradients):
        close(got, want, 1e-10)


def test_gates_reach_the_scores_of_the_chosen_blocks():
    module = DilatedAttention(learned=SMALL)
    q, k, v = inputs(2, 61)
    choices = []
    out, lse = module(q, k, v, choices=choices)
    choice = choices[0]
    (d,) = torch.autograd.grad((out * q).sum() + lse.square().sum(), choice.scores)
    gates = torch.ones(len(choice.blocks), requires_grad=True)
    again, again_lse = ls.attention(
        q, k, v, ls.Pattern.block_sparse("list", 8), blocks=choice.blocks, gates=gates, return_lse=True
    )
    (of_gates,) = torch.autograd.grad((again * q).sum() + again_lse.square().sum(), gates)
    wanted = torch.zeros_like(d)
    off = choice.blocks[:, 2] != choice.blocks[:, 3]
    wanted[tuple(choice.blocks[off].long().unbind(1))] = of_gates[off]
    assert torch.equal(d, wanted) and (d != 0).sum() > 20


def test_nothing_before_a_changed_token_moves_if_causal():
    module = DilatedAttention(causal=True, learned=SMALL).eval()
    tensors = inputs(1, 128)
    moved = 0
    with torch.no_grad():
        before = module(*tensors)[0]
        for p in (1, 7, 8, 50, 71, 72, 100, 127):
            changed = [x.clone() for x in tensors]
            for x in changed:
                x[:, p] *= -3
            after = module(*changed)[0]
            close(after[:, :p], before[:, :p], 1e-6)  # other blocks make other tiles, which round otherwise
            moved += not torch.equal(after[:, p + 1 :], before[:, p + 1 :])
    assert moved >= 6


def test_a_shorter_row_chooses_as_it_would_alone():
    scorer = BlockScorer(**SMALL).eval()
    q, k, _ = inputs(2, 128)
    alone = scorer(q[1:, :100], k[1:, :100])
    q, k = q.clone(), k.clone()
    q[1, 100:], k[1, 100:] = math.nan, math.nan
    both = scorer(q, k, torch.tensor([128, 100]))
    assert torch.equal(mask_of(both)[1, :, :13, :13], mask_of(alone)[0]) and both.density_loss.isfinite()
    assert mask_of(both)[1].sum() == mask_of(alone).sum()
    assert not torch.equal(mask_of(both)[0], mask_of(both)[1])


def test_noise_is_for_training_and_cools():
    scorer = BlockScorer(**SMALL).eval()
    q, k, _ = inputs(2, 128)
    best = mask_of(scorer(q, k))
    assert torch.equal(mask_of(scorer(q, k)), best)
    scorer.train()
    torch.manual_seed(6)
    one = mask_of(scorer(q, k))
    assert not torch.equal(one, best) and not torch.equal(mask_of(scorer(q, k)), one)
    torch.manual_seed(6)
    assert torch.equal(mask_of(scorer(q, k)), one), "it draws from torch's generator"
    scorer.temperature = 0
    assert torch.equal(mask_of(scorer(q, k)), best)
    with pytest.raises(ValueError, match="temperature must be finite and not negative, got -0.5"):
        scorer.temperature = -0.5


def test_density_loss_pulls_the_scores_to_the_density():
    scorer = BlockScorer(**SMALL)
    q, k, _ = inputs(2, 61)

    def share(choice):
        opened = choice.scores.sigmoid()
        diagonal = torch.eye(8, dtype=torch.bool)
        return opened.masked_fill(diagonal, 1).mean().item()

    for shift, above in ((-6.0, False), (3.0, True)):
        with torch.no_grad():
            scorer.bias.fill_(shift)
        choice = scorer(q, k)
        assert (share(choice) > 0.25) == above
        close(choice.density_loss, torch.tensor((share(choice) - 0.25) ** 2), 1e-5)
        of_bias, of_weight = torch.autograd.grad(choice.density_loss, (scorer.bias, scorer.query_in))
        assert ((of_bias > 0) == above).all() and of_weight.abs().max() > 0
    optimizer = torch.optim.Adam(scorer.parameters(), 0.05)
    for _ in range(300):
        optimizer.zero_grad()
        scorer(q, k).density_loss.backward()
        optimizer.step()
    assert abs(share(scorer(q, k)) - 0.25) < 0.03


def scorer_of(module):
    (scorer,) = (part for part in module.modules() if isinstance(part, BlockScorer))
    return scorer


def computed(module, x, **call):
    """The output of a module that may return lse beside it."""
    out = module(x, **call)
    return out if isinstance(out, torch.Tensor) else out[0]


def test_in_a_multihead_module_and_a_layer(tmp_path):
    torch.manual_seed(12)
    x = made(2, 61, 32)
    multihead = MultiheadDilatedAttention(32, 4, kv_heads=2, learned=OF_HEADS)
    layer = TransformerLayer(32, 4, kv_heads=2, learned=OF_HEADS, dim_feedforward=16, dropout=0.0)
    for module in (multihead, layer):
        choices = []
        out = computed(module, x, choices=choices)
        (choice,) = choices
        assert choice.scores.shape == (2, 2, 8, 8) and module.config["learned"]["head_dim"] == 0
        (out.square().mean() + choice.density_loss).backward()
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in scorer_of(module).parameters())
        save_model(tmp_path / type(module).__name__, module)
        loaded = load_model(tmp_path / type(module).__name__).eval()
        module.eval()
        assert loaded.config == module.config
        before = computed(module, x)
        assert torch.equal(computed(loaded, x), before)
        twin = copy.deepcopy(module)
        with torch.no_grad():
            scorer_of(twin).query_out.neg_()
        assert torch.equal(computed(module, x), before) and not torch.equal(computed(twin, x), before)
    written = json.loads((tmp_path / "MultiheadDilatedAttention" / "config.json").read_text())
    assert written["config"]["blocks"] == [] and written["config"]["learned"]["density"] == 0.25


def test_a_pattern_says_what_stands_beside():
    module = DilatedAttention(pattern=ls.Pattern.dilated([24], [3], causal=True), learned=SMALL)
    same = DilatedAttention([24], [3], causal=True, learned=SMALL)
    same.load_state_dict(module.state_dict())
    assert module.scorer.causal and module.config == same.config
    tensors = inputs(1, 61)
    assert torch.equal(module.eval()(*tensors)[0], same.eval()(*tensors)[0])


def test_the_factory_builds_it():
    q, k, v = inputs(1, 64)
    plain = factory.create_dilated_attention("block_sparse_adaptive", block_size=8, density=0.25, head_dim=8, kv_heads=2)
    assert plain.scorer.options["density"] == 0.25 and plain(q, k, v)[0].shape == q.shape
    wide = factory.create_adaptive_sparse_attention(embed_dim=32, num_heads=4, block_size=8, density=0.25, dtype="float64")
    assert wide.attention.scorer.bias.dtype == torch.float64
    assert wide(made(1, 64, 32, dtype=torch.float64))[0].shape == (1, 64, 32)


def test_a_scorer_of_one_rank_has_the_whole():
    scorer, (q, k, _) = BlockScorer(**SMALL).eval(), inputs(2, 61)
    alone = scorer(q, k, over_ranks=ls.parallel.ContextParallel("none"))
    assert torch.equal(alone.blocks, scorer(q, k).blocks) and torch.equal(alone.density_loss, scorer(q, k).density_loss)
    with pytest.raises(ValueError, match="boundaries must be None where this process holds the whole sequence, got 61"):
        scorer(q, k, boundaries=61)


def test_a_task_is_learnt():
    """Keys that match a query stand in one block: the scorer comes to choose it, and the loss falls."""
    torch.manual_seed(3)
    module = DilatedAttention(learned={**SMALL, "density": 0.4, "kv_heads": 1, "hidden": 32})
    optimizer = torch.optim.Adam(module.parameters(), 0.02)
    nb, found = 8, []
    marks = torch.nn.functional.normalize(made(nb, 8, seed=5), dim=1)
    for _ in range(400):
        partner = torch.stack([torch.randperm(nb) for _ in range(8)])
        of_keys = torch.arange(nb).expand(8, nb)
        q, k = (6 * marks[which].repeat_interleave(8, 1)[:, :, None] for which in (partner, of_keys))
        v = torch.eye(nb)[of_keys].repeat_interleave(8, 1)[:, :, None]
        choices = []
        out, _ = module(q, k, v, choices=choices)
        loss = -(out[:, :, 0].gather(2, partner.repeat_interleave(8, 1)[:, :, None]) + 1e-2).log().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        mask = mask_of(choices[0])[:, 0]
        found.append(mask.gather(2, partner[:, :, None]).float().mean().item())
    first, last = (sum(part) / 20 for part in (found[:20], found[-20:]))
    assert first < 0.6 and last > 0.9


REFUSALS = (
    (lambda: DilatedAttention(learned={"head_dim": 8}), "kv_heads must be positive, got 0"),
    (lambda: DilatedAttention(learned=3), "learned must be an object, got 3"),
    (lambda: DilatedAttention(learned={**SMALL, "densty": 1}), "unknown key of learned 'densty'.*did you mean 'density'"),
    (lambda: DilatedAttention(learned={**SMALL, "density": 1.0}), r"density must be in \(0, 1\), got 1"),
    (lambda: DilatedAttention(learned=SMALL, blocks=[{"pattern": "axial", "block_size": 4}]), "blocks must be empty"),
    (lambda: MultiheadDilatedAttention(32, 4, learned=SMALL), "learned.head_dim and learned.kv_heads must be 0 in a multihead"),
    (lambda: BlockScorer(**SMALL)(*inputs(1, 16)[:2]), "density must be at least 0.5 on 2 x 2 blocks.*got 0.25; the nearest"),
    (lambda: BlockScorer(**SMALL)(made(1, 64, 4, 9), made(1, 64, 2, 8)), r"q must be \[1, 64, a multiple of 2, 8\]"),
    (lambda: BlockScorer(**SMALL)(made(1, 64, 4, 8), made(1, 64, 3, 8)), r"k must be \[batch, len, 2, 8\]"),
    (lambda: BlockScorer(**SMALL)(*(x.long() for x in inputs(1, 64)[:2])), "q must be a floating-point tensor, got Long"),
    (lambda: BlockScorer(**SMALL)(*inputs(2, 64)[:2], [64]), "lengths must have one entry a batch row, 2, got 1"),
    (lambda: BlockScorer(**SMALL)(*inputs(1, 64)[:2], [65]), r"lengths must be in \[0, 64\], got 65"),
    (lambda: DilatedAttention(learned=SMALL)(*inputs(1, 64), cu_seqlens=[0, 64]), "cu_seqlens must be None with learned"),
    (lambda: DilatedAttention(learned=SMALL)(*inputs(1, 64), query_start=0), "query_start must be None with learned blocks"),
    (lambda: DilatedAttention([8], [1])(*inputs(1, 64), choices=[]), "choices must be None in a module without learned"),
)


@pytest.mark.parametrize("number", range(len(REFUSALS)))
def test_refusals(number):
    call, words = REFUSALS[number]
    with pytest.raises(ValueError, match=words):
        call()


def test_no_cache():
    module = MultiheadDilatedAttention(32, 4, learned=OF_HEADS)
    with torch.no_grad(), pytest.raises(ValueError, match="cache must be None with learned blocks"):
        module(made(1, 8, 32), cache=module.make_cache(1, 16))
