"""compat.torchscale.patch(): every copy of torchscale's class, models already built, and the way back."""

import copy
import pickle
import sys
import types
from types import SimpleNamespace

import pytest
import torch
from support import close
from torchscale_algorithm import attend
from torchscale_like import XPOS, module_like

from longstride.compat import torchscale

NAME = "torchscale.component.dilated_attention"
FILE = "/site-packages/torchscale/component/dilated_attention.py"
ARGS = SimpleNamespace(flash_attention=True, segment_length=[16, 40], dilated_ratio=[1, 2], seq_parallel=False)


@pytest.fixture
def like(monkeypatch):
    """torchscale's module, and LongNet.py, which has imported the class by its name."""
    module, user = module_like(NAME, FILE), types.ModuleType("torchscale.model.LongNet")
    user.DilatedAttention = module.DilatedAttention
    for parent in ("torchscale", "torchscale.component"):  # pickle imports them before the class's module
        monkeypatch.setitem(sys.modules, parent, types.ModuleType(parent))
    monkeypatch.setitem(sys.modules, NAME, module)
    monkeypatch.setitem(sys.modules, user.__name__, user)
    yield module
    torchscale.unpatch()


def x_of(length=50):
    return torch.randn(2, length, 32, generator=torch.Generator().manual_seed(3))


def test_models_already_built_are_served_and_get_their_forward_back(like):
    built, x = [like.DilatedAttention(ARGS, 32, 4) for _ in range(3)], x_of()
    own = like.DilatedAttention.forward
    with pytest.raises(AssertionError):
        built[0](x, x, x)
    report = torchscale.patch()
    assert report.classes == (torchscale.PatchedClass(NAME, FILE, 3),)
    assert f"DilatedAttention of {NAME} ({FILE}), 3 modules" in str(report)
    for model in (*built, like.DilatedAttention(ARGS, 32, 4)):
        wanted = attend(model.state_dict(), x, 4, [16, 40], [1, 2], True)
        close(model(query=x, key=x, value=x, is_causal=True)[0], wanted)
    # A second time finds the same and keeps the class's own forward.
    assert torchscale.patch().classes[0].count == 4
    assert torchscale.unpatch().classes[0].module == NAME
    assert like.DilatedAttention.forward is own and not hasattr(built[0], "honour_key_padding")
    with pytest.raises(AssertionError):
        built[0](x, x, x)
    assert torchscale.unpatch().classes == () and str(torchscale.unpatch()) == "nothing"


def test_every_copy_is_found(like, monkeypatch):
    other = module_like("gigapath.torchscale.component.dilated_attention", "/gigapath/torchscale/dilated_attention.py")
    monkeypatch.setitem(sys.modules, other.__name__, other)
    model = other.DilatedAttention(ARGS, 32, 4)
    found = {(one.module, one.file, one.count) for one in torchscale.patch().classes}
    assert found == {(NAME, FILE, 0), (other.__name__, other.__file__, 1)}
    assert model(x_of(), x_of(), x_of())[0].shape == (2, 50, 32)


def test_modules_with_a_forward_of_their_own_are_not_counted(like):
    class Other(like.DilatedAttention):
        def forward(self, query, key, value):
            return query, None

    class Same(like.DilatedAttention):
        pass

    models = [kind(ARGS, 32, 4) for kind in (like.DilatedAttention, like.DilatedAttention, Other, Same)]
    models[1].forward = lambda *inputs: None
    assert torchscale.patch().classes[0].count == 2  # the first and the last


def test_xpos_caches_padding_and_copies_of_patched_models(like):
    module, x = like.DilatedAttention(ARGS, 32, 4, xpos=XPOS(8, 64)), x_of()
    torchscale.patch(honour_key_padding=True)
    whole = module(x, x, x, is_causal=True)[0]
    close(whole, attend(module.state_dict(), x, 4, [16, 40], [1, 2], True, xpos_base=64))
    state, parts = {}, []
    for at in range(x.size(1)):
        step = x[:, at : at + 1]
        parts.append(module(step, step, step, incremental_state=state, is_causal=True)[0])
    close(torch.cat(parts, 1), whole)
    mask = torch.arange(50) >= torch.tensor([50, 21])[:, None]
    short = x[1:, :21]
    close(module(x, x, x, key_padding_mask=mask)[0][1:, :21], module(short, short, short)[0])
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(other(x, x, x, is_causal=True)[0], whole)
    with pytest.raises(ValueError, match="^attn_mask must be None"):
        module(x, x, x, attn_mask=mask)


def test_nothing_to_patch_is_refused(monkeypatch):
    for name, module in list(sys.modules.items()):
        if hasattr(module, "DilatedAttention") and not name.startswith("longstride"):
            monkeypatch.delitem(sys.modules, name)
    # A class of the name alone is not torchscale's.
    other = types.ModuleType("dilated_attention_pytorch")
    other.DilatedAttention = type("DilatedAttention", (torch.nn.Module,), {"forward": lambda self, x: x})
    monkeypatch.setitem(sys.modules, other.__name__, other)
    with pytest.raises(ValueError, match="needs torchscale's DilatedAttention .*; import torchscale.model.LongNet"):
        torchscale.patch()


@pytest.mark.parametrize("written, wanted", (("np.int64(1)", "numpy.set_printoptions(legacy='1.25')"), ("1", None)))
def test_the_remedy_for_numpy_2(like, monkeypatch, written, wanted):
    integer = type("int64", (int,), {"__repr__": lambda self: written})
    with monkeypatch.context() as here:
        here.setitem(sys.modules, "numpy", SimpleNamespace(int64=integer))
        report = torchscale.patch()
    if wanted is None:
        assert report.remedy is None and "note" not in str(report)
    else:
        assert wanted in report.remedy and report.remedy in str(report)
