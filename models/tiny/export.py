"""Write a checkpoint as GGUF, in f16 and Q8_0, and list the shipped files in ``weights.json``."""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import tokenizer as text

TOKENIZER_PATH = Path(__file__).with_name("tokenizer.json")
DEFAULT_TEMPERATURE = 0.2
QUANTISATIONS = {
    "f16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    "q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Weights as saved by ``train.py`` with the record of their run."""

    arrays: dict[str, np.ndarray]
    about: dict[str, Any]

    @classmethod
    def load(cls, path: Path) -> Checkpoint:
        """Read a ``.npz`` checkpoint."""
        with np.load(path) as stored:
            arrays = {name: stored[name] for name in stored.files}
        about = json.loads(str(arrays.pop("about")))
        return cls(arrays, about)

    def blend(self, later: Checkpoint, share: float) -> Checkpoint:
        """Average with a later checkpoint of the same run, which evens out its last steps.

        Args:
            later: The checkpoint whose record is kept.
            share: Weight of the later one, 0 to 1.
        """
        mixed = {
            name: ((1 - share) * array + share * later.arrays[name]).astype(np.float32)
            for name, array in self.arrays.items()
        }
        return Checkpoint(mixed, later.about)

    @property
    def parameters(self) -> int:
        """Stored weights; the output matrix is the embedding and counts once."""
        return sum(array.size for array in self.arrays.values())


def tensors(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    """Rename to llama.cpp's names and turn matrices to (outputs, inputs)."""
    arrays, sizes = checkpoint.arrays, checkpoint.about["sizes"]
    named = {"token_embd.weight": arrays["embedding"], "output_norm.weight": arrays["norm"]}
    for index in range(sizes["layers"]):

        def block(name: str, index: int = index) -> np.ndarray:
            return arrays[f"blocks.{index}.{name}"]

        query, key, value = np.split(block("qkv"), 3, axis=1)
        gate, up = np.split(block("gate_up"), 2, axis=1)
        matrices = {
            "attn_q": query,
            "attn_k": key,
            "attn_v": value,
            "attn_output": block("attention_out"),
            "ffn_gate": gate,
            "ffn_up": up,
            "ffn_down": block("down"),
        }
        named |= {f"blk.{index}.{name}.weight": m.T for name, m in matrices.items()}
        named[f"blk.{index}.attn_norm.weight"] = block("attention_norm")
        named[f"blk.{index}.ffn_norm.weight"] = block("feed_norm")
    return {name: np.ascontiguousarray(array, np.float32) for name, array in named.items()}


def write_metadata(writer: gguf.GGUFWriter, checkpoint: Checkpoint, name: str) -> None:
    """Write sizes, licence and recommended sampling."""
    sizes = checkpoint.about["sizes"]
    writer.add_name(name)
    writer.add_author("The Infern project")
    writer.add_license("mit")
    writer.add_description(
        "Toy chat model of the Infern demo, trained on generated dialogues. Not for real use."
    )
    writer.add_float32("general.sampling.temp", DEFAULT_TEMPERATURE)
    writer.add_context_length(sizes["context_tokens"])
    writer.add_embedding_length(sizes["width"])
    writer.add_block_count(sizes["layers"])
    writer.add_feed_forward_length(sizes["feed_forward"])
    writer.add_head_count(sizes["heads"])
    writer.add_head_count_kv(sizes["heads"])
    writer.add_layer_norm_rms_eps(sizes["norm_epsilon"])
    writer.add_rope_freq_base(sizes["rope_base"])
    writer.add_rope_dimension_count(sizes["width"] // sizes["heads"])
    writer.add_vocab_size(sizes["vocab"])


def write_tokenizer(writer: gguf.GGUFWriter) -> None:
    """Write vocabulary, merges and chat template."""
    stored = json.loads(TOKENIZER_PATH.read_text(encoding="utf-8"))
    vocabulary = stored["model"]["vocab"]
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    kinds = [
        gguf.TokenType.CONTROL if token in text.SPECIAL else gguf.TokenType.NORMAL
        for token in tokens
    ]
    merges = [
        merge if isinstance(merge, str) else " ".join(merge) for merge in stored["model"]["merges"]
    ]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(vocabulary[text.TURN_START])
    writer.add_eos_token_id(vocabulary[text.TURN_END])
    writer.add_pad_token_id(vocabulary[text.END_OF_TEXT])
    writer.add_add_bos_token(value=False)
    writer.add_chat_template(text.CHAT_TEMPLATE)


def export(checkpoint: Checkpoint, name: str, quantisation: str, path: Path) -> None:
    """Write one GGUF file; the same checkpoint always gives the same bytes."""
    kind, file_type = QUANTISATIONS[quantisation]
    writer = gguf.GGUFWriter(path, "llama")
    write_metadata(writer, checkpoint, name)
    writer.add_file_type(file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    write_tokenizer(writer)
    for tensor, array in tensors(checkpoint).items():
        # llama.cpp wants norm gains as f32.
        if array.ndim == 1:
            writer.add_tensor(tensor, array)
        else:
            writer.add_tensor(tensor, gguf.quants.quantize(array, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def describe(checkpoint: Checkpoint, quantisation: str, path: Path) -> dict[str, Any]:
    """Return the entry of one file in ``weights.json``."""
    sizes = checkpoint.about["sizes"]
    return {
        "name": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "bytes": path.stat().st_size,
        "quantisation": quantisation,
        "parameters": checkpoint.parameters,
        "context_tokens": sizes["context_tokens"],
        "vocab": sizes["vocab"],
        "tokenizer_sha256": hashlib.sha256(TOKENIZER_PATH.read_bytes()).hexdigest(),
        "template_sha256": hashlib.sha256(text.CHAT_TEMPLATE.encode()).hexdigest(),
        "licence": "MIT",
    }


def load_blend(source: str) -> Checkpoint:
    """Load ``FILE`` or ``EARLIER,LATER,SHARE``."""
    first, *rest = source.split(",")
    checkpoint = Checkpoint.load(Path(first))
    if not rest:
        return checkpoint
    later, share = rest
    return checkpoint.blend(Checkpoint.load(Path(later)), float(share))


def main() -> None:
    """Export checkpoints and write ``weights.json`` beside them."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument(
        "checkpoints",
        nargs="+",
        metavar="NAME=FILE",
        help="for example tiny-b=b.npz, or tiny-a=a2.npz,a3.npz,0.8 for an average with weight "
        "0.8 on the second file",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the GGUF files")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    entries = []
    for item in arguments.checkpoints:
        name, _, source = item.partition("=")
        checkpoint = load_blend(source)
        for quantisation in QUANTISATIONS:
            path = arguments.out / f"{name}-{quantisation}.gguf"
            export(checkpoint, f"infern-{name}", quantisation, path)
            entry = describe(checkpoint, quantisation, path)
            entries.append(entry)
            print(f"{entry['name']}  {entry['bytes']:,} bytes  sha256 {entry['sha256']}")
    listing = json.dumps({"weights": entries}, indent=2) + "\n"
    (arguments.out / "weights.json").write_text(listing, encoding="utf-8")


if __name__ == "__main__":
    main()
