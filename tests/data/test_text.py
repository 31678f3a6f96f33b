"""WordPiece and word ids against short reference implementations."""

import pickle
import random
import re
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from thesis_lib.data.text import S3DWords, Vocabulary, write_vocab

SHARED = Path(__file__).parents[2].parent / "shared" / "data" / "vocab" / "bert-base-uncased-vocab.txt"
bert = pytest.mark.skipif(not SHARED.is_file(), reason="needs ../shared/data/vocab")
CORPUS = ["Cut the tomato", "it's easy!", "add_oil", "peel the cucumber, then cut it"]


@pytest.fixture
def vocabulary(tmp_path):
    write_vocab(tmp_path / "vocab.txt", CORPUS)
    return Vocabulary(tmp_path / "vocab.txt")


def word_piece(text, pieces):
    """BERT's tokenisation (Devlin et al. 2019) in short: lower case without accents, words and signs, longest match."""
    plain = "".join(c for c in unicodedata.normalize("NFD", text.lower()) if unicodedata.category(c) != "Mn")
    found = []
    for word in re.findall(r"[^\W_]+|[^\w\s]|_", plain):
        start, parts = 0, []
        while start < len(word):
            prefix = "##" if start else ""
            ends = [end for end in range(len(word), start, -1) if prefix + word[start:end] in pieces]
            if not ends:
                parts = ["[UNK]"]
                break
            parts.append(prefix + word[start : ends[0]])
            start = ends[0]
        found += parts
    return found


def random_texts(count):
    rng = random.Random(0)
    words = ["cut", "tomatoes", "the", "Peel", "cucumbers", "add_oil", "it's", "naïve", "Crème", "x2y", "3.5", "zzz"]
    letters = "abcdefgz_'!-,.  éÜ"
    return [
        " ".join(rng.choice(words) for _ in range(rng.randrange(6)))
        + "".join(rng.choice(letters) for _ in range(rng.randrange(12)))
        for _ in range(count)
    ]


def test_pieces_are_those_of_the_reference(vocabulary):
    pieces = set(vocabulary.pieces)
    for text in random_texts(300):
        assert vocabulary.tokens(text) == word_piece(text, pieces), text


@bert
def test_pieces_of_the_real_vocabulary_are_those_of_the_reference():
    vocabulary = Vocabulary(SHARED)
    assert (len(vocabulary), vocabulary.pad, vocabulary.cls, vocabulary.sep) == (30_522, 0, 101, 102)
    pieces = set(vocabulary.pieces)
    for text in random_texts(200):
        assert vocabulary.tokens(text) == word_piece(text, pieces), text


ALPHABETS = [
    "".join(map(chr, range(0x20, 0x7F))),
    "".join(map(chr, range(0x20))) + "\x7f\x80\x85\xa0\xad\u200b\u200d\u2028\u3000\ufeff\ufffd\ue000 ab",
    "".join(map(chr, range(0xC0, 0x250))),
    "aeiou " + "".join(map(chr, range(0x300, 0x370))),
    "".join(map(chr, range(0x370, 0x700))),
    "".join(map(chr, range(0x2000, 0x2070))),
    "a " + "".join(map(chr, range(0x3040, 0x3100))) + "".join(map(chr, range(0x4E00, 0x4F00))),
    "".join(map(chr, range(0xAC00, 0xAD00))) + "".join(map(chr, range(0xFB00, 0xFB50))),
    "".join(map(chr, range(0x1F300, 0x1F600))) + "".join(map(chr, range(0x20000, 0x20100))),
]


def any_text(rng, pieces):
    """Pieces, letters of one or of all alphabets, a word too long for a piece, a special piece, or nothing."""
    kind = rng.randrange(10)
    if kind == 0:
        return rng.choice(["", " ", "x" * rng.randint(90, 110) + " cut", "a[MASK]b", "[ CLS ] [SEP]x", "[pad]"])
    if kind < 4:
        return " ".join(rng.choices(pieces, k=rng.randint(1, 12)))
    if kind == 4:
        return "".join(chr(rng.choice([rng.randrange(0xD800), rng.randrange(0xE000, 0x110000)])) for _ in range(20))
    alphabets = ALPHABETS if kind > 7 else [rng.choice(ALPHABETS)]
    return "".join(rng.choice(rng.choice(alphabets)) for _ in range(rng.randint(1, 40)))


def category_of_2002(letter):
    return unicodedata.category(letter) == unicodedata.ucd_3_2_0.category(letter) != "Cn"


@bert
def test_ids_are_those_of_transformers(tmp_path):
    """Its tokeniser of today on any text; the slow one in Python, which MMPT used, on what Unicode 3.2 had.

    Of later characters, and of those not assigned, the two judge by Unicode tables of different age, and differ.
    """
    transformers = pytest.importorskip("transformers", reason="needs transformers: pip install -e '.[fairseq]'")
    from transformers.models.bert.tokenization_bert_legacy import BertTokenizerLegacy

    shutil.copy(SHARED, tmp_path / "vocab.txt")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    today, slow = transformers.BertTokenizer.from_pretrained(tmp_path), BertTokenizerLegacy(SHARED)
    vocabulary, rng = Vocabulary(SHARED), random.Random(0)
    texts = [any_text(rng, vocabulary.pieces) for _ in range(10_000)]
    assert len(set(texts)) > 9000
    for text, ids, mask in zip(texts, *vocabulary.encode(texts, max_tokens=10**6), strict=True):
        assert ids[mask].tolist() == today(text)["input_ids"], repr(text)
    known = ["".join(letter for letter in text if category_of_2002(letter)) for text in texts]
    for text, ids, mask in zip(known, *vocabulary.encode(known, max_tokens=10**6), strict=True):
        assert ids[mask][1:-1].tolist() == slow.convert_tokens_to_ids(slow.tokenize(text)), repr(text)


def test_encode_pads_to_the_longest(vocabulary):
    ids, mask = vocabulary.encode(["cut the tomato", "add_oil it", ""])
    assert ids.shape == mask.shape == (3, 6) and ids.dtype == np.int64 and mask.dtype == bool
    assert mask.sum(axis=1).tolist() == [5, 6, 2]
    assert (ids[:, 0] == vocabulary.cls).all()
    for row, keep in zip(ids, mask, strict=True):
        assert row[keep][-1] == vocabulary.sep and (row[~keep] == vocabulary.pad).all()
    assert [vocabulary.pieces[k] for k in ids[1]] == ["[CLS]", "add", "_", "oil", "it", "[SEP]"]


def test_encode_keeps_the_first_pieces_and_closes(vocabulary):
    ids, mask = vocabulary.encode(["cut the tomato " * 40], max_tokens=61)
    assert ids.shape == (1, 63) and mask.all() and ids[0, -1] == vocabulary.sep
    assert [vocabulary.pieces[k] for k in vocabulary.encode(["cut the tomato"], 2)[0][0][1:-1]] == ["cut", "the"]
    assert vocabulary.encode([])[0].shape == (0, 0)


def test_every_latin_word_has_pieces(vocabulary):
    assert "[UNK]" not in vocabulary.tokens("zucchini quickly 27 Äpfel add_pepper_9")
    assert vocabulary.tokens("cut the cucumber") == ["cut", "the", "cucumber"]


def test_write_vocab_is_the_same_in_any_order(tmp_path):
    write_vocab(tmp_path / "a.txt", CORPUS)
    write_vocab(tmp_path / "b.txt", CORPUS[::-1] * 2)
    assert (tmp_path / "a.txt").read_bytes() == (tmp_path / "b.txt").read_bytes()
    pieces = (tmp_path / "a.txt").read_text().splitlines()
    assert pieces[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] and len(set(pieces)) == len(pieces)


def test_a_vocabulary_travels_to_workers(vocabulary):
    vocabulary.tokens("cut")
    assert (
        pickle.loads(pickle.dumps(vocabulary)).encode(["cut it"])[0].tolist()
        == vocabulary.encode(["cut it"])[0].tolist()
    )


def test_vocabulary_with_crlf(tmp_path, vocabulary):
    (tmp_path / "crlf.txt").write_bytes("\r\n".join([*vocabulary.pieces, ""]).encode())
    other = Vocabulary(tmp_path / "crlf.txt")
    assert len(other) == len(vocabulary) and other.encode(CORPUS)[0].tolist() == vocabulary.encode(CORPUS)[0].tolist()


def test_wrong_vocabulary_files(tmp_path):
    with pytest.raises(ValueError, match="no vocabulary there"):
        Vocabulary(tmp_path / "vocab.txt")
    (tmp_path / "vocab.txt").write_text("cut\nthe\n[PAD]\n")
    with pytest.raises(ValueError, match=r"\[UNK\], \[CLS\], \[SEP\], \[MASK\] missing"):
        Vocabulary(tmp_path / "vocab.txt")


def test_s3d_words():
    words = S3DWords(["cut", "the", "it's", "tomato"])
    ids = words.encode(["Cut THE purple tomato, it's", "", "the " * 20])
    assert ids.shape == (3, 16) and ids.dtype == np.int64 and len(words) == 4
    assert ids[0].tolist() == [1, 2, 4, 3] + [0] * 12
    assert ids[1].tolist() == [0] * 16 and ids[2].tolist() == [2] * 16
    assert words.encode(["cut the tomato"], max_words=2).tolist() == [[1, 2]]


def test_s3d_unknown_words_make_room(tmp_path):
    """Sixteen known words, not the known among the first sixteen."""
    assert S3DWords(["cut"]).encode(["x " * 30 + "cut"])[0, 0] == 1


def test_s3d_words_of_a_corpus_and_of_files(tmp_path):
    words = S3DWords.of(CORPUS)
    assert words.words == sorted({word for text in CORPUS for word in re.findall(r"[\w']+", text.lower())})
    np.save(tmp_path / "s3d_dict.npy", np.array(words.words))
    (tmp_path / "words.txt").write_text("\n".join(words.words))
    for name in ("s3d_dict.npy", "words.txt"):
        assert S3DWords.read(tmp_path / name).words == words.words
    with pytest.raises(ValueError, match="no word list"):
        S3DWords.read(tmp_path / "nowhere.npy")
