"""Text to token ids: BERT's WordPiece for VideoCLIP, a list of words for S3D."""

import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from tokenizers import BertWordPieceTokenizer

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
S3D_WORD = re.compile(r"[\w']+")


class Vocabulary:
    """Lower-case WordPiece over a vocab.txt (one piece a line, its id the line number), as bert-base-uncased has it."""

    def __init__(self, path: str | Path):
        if not Path(path).is_file():
            raise ValueError(f"{path}: no vocabulary there (expected the vocab.txt of a BERT model)")
        self.pieces = Path(path).read_text(encoding="utf-8").rstrip("\n").split("\n")
        ids = {piece.rstrip("\r"): number for number, piece in enumerate(self.pieces)}
        absent = [piece for piece in SPECIAL if piece not in ids]
        if absent:
            raise ValueError(f"{path}: not a BERT vocabulary, {', '.join(absent)} missing")
        self.pad, self.unk, self.cls, self.sep, self.mask = (ids[piece] for piece in SPECIAL)
        self._ids = ids

    def __len__(self) -> int:
        return len(self.pieces)

    def __getstate__(self) -> dict:
        return {name: value for name, value in vars(self).items() if name != "_tokenizer"}

    @cached_property
    def _tokenizer(self) -> BertWordPieceTokenizer:
        return BertWordPieceTokenizer(vocab=self._ids, lowercase=True)

    def tokens(self, text: str) -> list[str]:
        """Word pieces of a text, without [CLS] and [SEP]."""
        return self._tokenizer.encode(text, add_special_tokens=False).tokens

    def pieces_of(self, texts: Sequence[str], max_tokens: int = 61) -> list[list[int]]:
        """Word piece ids of each text, without [CLS] and [SEP]."""
        encodings = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [encoding.ids[:max_tokens] for encoding in encodings]

    def encode(self, texts: Sequence[str], max_tokens: int = 61) -> tuple[np.ndarray, np.ndarray]:
        """Texts -> ids [B, L] int64, mask [B, L] bool: [CLS] pieces [SEP], padded to the longest.

        max_tokens counts pieces alone; 61 is what VideoCLIP leaves for text: max_len 96 less 32 of video less 3
        special ones (fairseq examples/MMPT, projects/retri/videoclip/how2.yaml).
        """
        rows = [[self.cls, *ids, self.sep] for ids in self.pieces_of(texts, max_tokens)]
        ids = np.full((len(rows), max(map(len, rows), default=0)), self.pad, dtype=np.int64)
        mask = np.zeros(ids.shape, dtype=bool)
        for number, row in enumerate(rows):
            ids[number, : len(row)] = row
            mask[number, : len(row)] = True
        return ids, mask


def write_vocab(path: str | Path, texts: Iterable[str]) -> None:
    """Write the vocab.txt of a small corpus: special pieces, single letters and their ## forms, '_', then every word.

    The letters make sure that any word of a-z and 0-9 has pieces.
    """
    splitter = BertWordPieceTokenizer(lowercase=True)
    words = set()
    for text in texts:
        normal = splitter.normalizer.normalize_str(text)
        words.update(word for word, _ in splitter.pre_tokenizer.pre_tokenize_str(normal))
    letters = list("abcdefghijklmnopqrstuvwxyz0123456789")
    pieces = dict.fromkeys([*SPECIAL, "_", *letters, *(f"##{letter}" for letter in letters), *sorted(words)])
    Path(path).write_text("".join(f"{piece}\n" for piece in pieces), encoding="utf-8", newline="\n")


class S3DWords:
    """The word list of S3D: id 1 for the first word, 0 for padding; words outside the list are dropped.

    Source: antoine77340/S3D_HowTo100M, s3dg.py (Sentence_Embedding), whose list is s3d_dict.npy.
    """

    def __init__(self, words: Iterable[str]):
        self.words = [str(word) for word in words]
        self._ids = {word: number for number, word in enumerate(self.words, 1)}

    @classmethod
    def read(cls, path: str | Path) -> "S3DWords":
        """From s3d_dict.npy (array of strings) or a text file with one word a line."""
        if not Path(path).is_file():
            raise ValueError(f"{path}: no word list there (expected s3d_dict.npy or a text file)")
        if Path(path).suffix == ".npy":
            return cls(np.load(path, allow_pickle=False))
        return cls(Path(path).read_text(encoding="utf-8").split())

    @classmethod
    def of(cls, texts: Iterable[str]) -> "S3DWords":
        """The words of a corpus, sorted."""
        return cls(sorted({word for text in texts for word in S3D_WORD.findall(text.lower())}))

    def __len__(self) -> int:
        return len(self.words)

    def encode(self, texts: Sequence[str], max_words: int = 16) -> np.ndarray:
        """Texts -> ids [B, max_words] int64: the first known words, then zeros."""
        ids = np.zeros((len(texts), max_words), dtype=np.int64)
        for row, text in zip(ids, texts, strict=True):
            known = [self._ids[word] for word in S3D_WORD.findall(text.lower()) if word in self._ids][:max_words]
            row[: len(known)] = known
        return ids
