"""Train the demo model: ``python -m compute.training.train WORDNET_DIR OUT_DIR --minutes 15``.

A Llama of about two million parameters learns the corpus by heart: conversations packed into rows, loss on the answers
only, Muon on the matrices (Jordan et al. 2024) and AdamW on the rest. Needs torch; about 15 minutes on two CPU cores.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as functional
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn

from compute.training.corpus import Corpus, read_wordnet

VOCAB, DIM, LAYERS, HEADS, FFN = 1536, 176, 4, 4, 480
ROW = 256
"""Tokens in one training row: several conversations, so that the model sees history too."""
SPECIALS = ("<|pad|>", "<|bos|>", "<|user|>", "<|assistant|>", "<|end|>", "<|system|>")
SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You are a helpful assistant",
    "Answer briefly.",
    "Be concise.",
    "You are a friendly assistant.",
    "You answer questions about Cocoon.",
    "You are an AI assistant.",
)
CONTEXT = 512
ROPE_THETA = 10_000.0
EPS = 1e-5


class Block(nn.Module):  # type: ignore[misc]  # torch is not installed where the types are checked
    """One Llama layer: RMSNorm, rotary attention, RMSNorm, SwiGLU."""

    def __init__(self) -> None:
        super().__init__()
        self.input_layernorm, self.post_attention_layernorm = (nn.RMSNorm(DIM, EPS) for _ in range(2))
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(DIM, DIM, bias=False) for _ in range(4))
        self.gate_proj, self.up_proj = (nn.Linear(DIM, FFN, bias=False) for _ in range(2))
        self.down_proj = nn.Linear(FFN, DIM, bias=False)

    def forward(self, x: Any, cos: Any, sin: Any) -> Any:
        """(batch, time, DIM) to the same."""
        batch, length, _ = x.shape
        hidden = self.input_layernorm(x)
        projections = (self.q_proj, self.k_proj, self.v_proj)
        q, k, v = (proj(hidden).view(batch, length, HEADS, -1).transpose(1, 2) for proj in projections)
        q, k = q * cos + rotate(q) * sin, k * cos + rotate(k) * sin
        attended = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o_proj(attended.transpose(1, 2).reshape(batch, length, DIM))
        hidden = self.post_attention_layernorm(x)
        return x + self.down_proj(functional.silu(self.gate_proj(hidden)) * self.up_proj(hidden))


def rotate(x: Any) -> Any:
    """Rotary half turn (Su et al. 2021), the half-split layout of Llama checkpoints."""
    half = x.shape[-1] // 2
    return torch.cat([-x[..., half:], x[..., :half]], -1)


class DemoLlama(nn.Module):  # type: ignore[misc]  # torch, as above
    """Token ids to the last hidden states; the embedding is also the output matrix."""

    def __init__(self, vocab: int) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(vocab, DIM)
        self.layers = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = nn.RMSNorm(DIM, EPS)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, 0, 0.02)
        head = DIM // HEADS
        angles = torch.outer(torch.arange(ROW), 1 / ROPE_THETA ** (torch.arange(0, head, 2) / head))
        self.register_buffer("cos", torch.cat([angles, angles], -1).cos(), persistent=False)
        self.register_buffer("sin", torch.cat([angles, angles], -1).sin(), persistent=False)

    def forward(self, ids: Any) -> Any:
        """(batch, time) ids to (batch, time, DIM)."""
        x = self.embed_tokens(ids)
        for layer in self.layers:
            x = layer(x, self.cos[: ids.shape[1]].to(x.dtype), self.sin[: ids.shape[1]].to(x.dtype))
        return self.norm(x)


def make_tokenizer(pairs: list[tuple[str, str]]) -> Tokenizer:
    """Byte-level BPE over the corpus, digits apart, so that any input can be written and sums line up."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB, special_tokens=list(SPECIALS), initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator([text for pair in pairs for text in pair], trainer)
    return tokenizer


class Rows:
    """Packs encoded conversations into rows with a mask over the answers."""

    def __init__(self, tokenizer: Tokenizer, pairs: list[tuple[str, str]], seed: int) -> None:
        self.bos, self.user, self.assistant, self.end, self.system = (tokenizer.token_to_id(t) for t in SPECIALS[1:])
        encoded = tokenizer.encode_batch([text for pair in pairs for text in pair])
        self.pairs = [(encoded[i].ids, encoded[i + 1].ids) for i in range(0, len(encoded), 2)]
        self.systems = [encoding.ids for encoding in tokenizer.encode_batch(list(SYSTEM_PROMPTS))]
        self.random = torch.Generator().manual_seed(seed)

    def _pick(self, n: int) -> int:
        return int(torch.randint(n, (1,), generator=self.random))

    def batch(self, rows: int) -> tuple[Any, Any]:
        """(rows, ROW+1) ids and the mask of the ids to be predicted."""
        ids = torch.zeros(rows, ROW + 1, dtype=torch.long)
        mask = torch.zeros(rows, ROW + 1, dtype=torch.bool)
        for row in range(rows):
            line = [self.bos]
            if self._pick(6) == 0:
                line += [self.system, *self.systems[self._pick(len(self.systems))], self.end]
            flags = [False] * len(line)
            while len(line) < ROW + 1:
                question, answer = self.pairs[self._pick(len(self.pairs))]
                prompt = [self.user, *question, self.end, self.assistant]
                line += [*prompt, *answer, self.end]
                flags += [False] * len(prompt) + [True] * (len(answer) + 1)
            ids[row], mask[row] = torch.tensor(line[: ROW + 1]), torch.tensor(flags[: ROW + 1])
        return ids, mask


def optimizers(model: nn.Module, *, resumed: bool) -> list[Any]:
    """Muon for the layers' matrices, AdamW for embedding and norms.

    A resumed run uses AdamW alone: Muon's steps have a fixed size and would first shake what was learnt.
    """
    if resumed:
        return [torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.98), weight_decay=0.0)]
    matrices = [p for n, p in model.named_parameters() if p.dim() == 2 and not n.startswith("embed")]
    rest = [p for n, p in model.named_parameters() if p.dim() != 2 or n.startswith("embed")]
    return [
        torch.optim.Muon(matrices, lr=0.02, weight_decay=0.01, adjust_lr_fn="original"),
        torch.optim.AdamW(rest, lr=3e-3, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def train(model: DemoLlama, rows: Rows, seconds: float, batch_rows: int, rate_factor: float, *, resumed: bool) -> float:
    """Train for ``seconds``: warm-up, constant rate, from 40 % on linear decay. Returns the smoothed loss."""
    opts = optimizers(model, resumed=resumed)
    groups = [(group, group["lr"] * rate_factor) for opt in opts for group in opt.param_groups]
    began, step, smooth = time.monotonic(), 0, 0.0
    while (done := (time.monotonic() - began) / seconds) < 1:
        for group, rate in groups:
            group["lr"] = rate * min(1, (step + 1) / 30) * (1 if done < 0.4 else max(0.01, (1 - done) / 0.6))
        ids, mask = rows.batch(batch_rows)
        with torch.autocast("cpu", torch.bfloat16):
            hidden, wanted = model(ids[:, :-1]), mask[:, 1:]
            logits = hidden[wanted] @ model.embed_tokens.weight.T
        loss = functional.cross_entropy(logits.float(), ids[:, 1:][wanted])
        for opt in opts:
            opt.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for opt in opts:
            opt.step()
        step += 1
        smooth = loss.item() if step == 1 else 0.97 * smooth + 0.03 * loss.item()
        if step % 50 == 0:
            print(f"step {step} {time.monotonic() - began:.0f} s loss {smooth:.4f}", flush=True)
    return smooth


def main() -> None:
    """Make the corpus, the tokenizer and the weights; write ``tokenizer.json`` and ``demo.pt``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wordnet", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--rows", type=int, default=12)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--resume", type=Path, help="an earlier OUT_DIR, whose weights and tokeniser are trained on")
    parser.add_argument("--rate", type=float, default=1.0, help="factor on the learning rates, for resumed training")
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    corpus = Corpus(read_wordnet(args.wordnet), seed=7)
    pairs = [corpus.sample() for _ in range(120_000)]
    earlier = args.resume / "tokenizer.json" if args.resume else None
    tokenizer = Tokenizer.from_file(str(earlier)) if earlier else make_tokenizer(pairs)
    args.out.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(args.out / "tokenizer.json"))
    model = DemoLlama(tokenizer.get_vocab_size())
    if args.resume:
        model.load_state_dict(torch.load(args.resume / "demo.pt", weights_only=True))
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{parameters} parameters, vocabulary {tokenizer.get_vocab_size()}", flush=True)
    loss = train(
        model, Rows(tokenizer, pairs, seed=1), args.minutes * 60, args.rows, args.rate, resumed=bool(args.resume)
    )
    torch.save(model.state_dict(), args.out / "demo.pt")
    print(f"final loss {loss:.4f}")


if __name__ == "__main__":
    main()
