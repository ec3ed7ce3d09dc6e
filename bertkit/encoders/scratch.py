"""An encoder that starts from nothing but the train split."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from bertkit.encoders.base import Encoder
from bertkit.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from bertkit.records import Context


class Scratch(Encoder):
    """A small BERT with random weights, and a byte-pair tokenizer trained on the train texts.

    For languages and domains without an encoder, for tests and for teaching.
    """

    type: Literal["scratch"] = "scratch"
    vocab_size: int = Field(8000, ge=16, description="Most tokens of the trained vocabulary.")
    hidden_size: int = Field(128, ge=4, description="Size of the token vectors.")
    layers: int = Field(2, ge=1, description="Transformer layers.")
    attention_heads: int = Field(2, ge=1, description="Attention heads a layer.")
    max_length: int = Field(256, ge=8, description="Longest text it can read, in tokens.")
    dropout: float = Field(0.1, ge=0, lt=1, description="Dropout in hidden states and attention.")
    lowercase: bool = Field(True, description="Lower-case the text and strip accents.")

    @model_validator(mode="after")
    def _heads_divide_hidden(self) -> Scratch:
        if self.hidden_size % self.attention_heads:
            raise ValueError(
                f"hidden_size ({self.hidden_size}) must be a multiple of attention_heads "
                f"({self.attention_heads})"
            )
        return self

    def load(self, ctx: Context) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """Train the tokenizer and draw the weights with the run's seed."""
        import torch
        from transformers import BertConfig, BertModel

        if ctx.splits is None:
            raise ModelError("encoder: `scratch` needs the texts of a run to learn its vocabulary")
        tokenizer = self._train_tokenizer(ctx)
        config = BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=self.hidden_size,
            num_hidden_layers=self.layers,
            num_attention_heads=self.attention_heads,
            intermediate_size=4 * self.hidden_size,
            max_position_embeddings=self.max_length,
            hidden_dropout_prob=self.dropout,
            attention_probs_dropout_prob=self.dropout,
            pad_token_id=tokenizer.pad_token_id,
        )
        torch.manual_seed(ctx.seed)
        return BertModel(config), tokenizer

    def _train_tokenizer(self, ctx: Context) -> PreTrainedTokenizerBase:
        from tokenizers import (
            Tokenizer,
            models,
            normalizers,
            pre_tokenizers,
            processors,
            trainers,
        )
        from transformers import PreTrainedTokenizerFast

        assert ctx.splits is not None
        train = ctx.splits.train
        columns = [name for name in ("text", "text_pair") if name in train.column_names]
        texts = [text for name in columns for text in train[name][:]]
        ctx.say(f"training a tokenizer of at most {self.vocab_size} tokens on {len(texts)} texts")
        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        backend = Tokenizer(models.BPE(unk_token="[UNK]"))
        # Chinese characters are not set apart: pieces of several make far better features
        backend.normalizer = normalizers.BertNormalizer(
            lowercase=self.lowercase, handle_chinese_chars=False
        )
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()]
        )
        trainer = trainers.BpeTrainer(
            vocab_size=self.vocab_size,
            special_tokens=special,
            limit_alphabet=self.vocab_size - len(special),
            show_progress=False,
        )
        backend.train_from_iterator((text for text in texts), trainer, length=len(texts))
        ids = {token: backend.token_to_id(token) for token in special}
        backend.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[(token, ids[token]) for token in ("[CLS]", "[SEP]")],
        )
        return PreTrainedTokenizerFast(
            tokenizer_object=backend,
            unk_token="[UNK]",
            pad_token="[PAD]",
            cls_token="[CLS]",
            sep_token="[SEP]",
            mask_token="[MASK]",
            model_max_length=self.max_length,
            model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        )
