"""Which split a name means: a folder, an archive, a CSV file or a value in one of its columns."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

_WORDS = {
    "train": (
        "train", "training", "trn", "tr", "treino", "treinamento", "entrenamiento", "entrainement", "apprentissage", "addestramento",
        "训练", "训练集", "訓練", "学習", "обучение",
    ),
    "validation": (
        "val", "valid", "validation", "validate", "vali", "va", "dev", "devel", "development", "validacao", "validacion",
        "validierung", "convalida", "验证", "验证集", "驗證", "検証", "валидация",
    ),
    "test": (
        "test", "testing", "tst", "te", "eval", "evaluation", "holdout", "heldout", "teste", "prueba", "prova", "测试", "测试集", "測試",
        "テスト", "тест",
    ),
}  # fmt: skip
_SPLIT = {word: split for split, words in _WORDS.items() for word in words}
_ABOUT = (  # words that say nothing more of a split
    "set", "data", "dataset", "image", "images", "img", "imgs", "pic", "pics", "picture", "pictures", "photo", "photos", "folder",
    "dir", "split", "part", "file", "files", "sample", "samples", "my", "the", "new", "old", "final", "full",
    "small", "daten", "sdaten", "bilder", "fotos", "resized", "cropped", "raw", "original", "orig", "copy", "px", "x", "v", "kaggle",
)  # fmt: skip
_ENDING = re.compile(rf"({'|'.join(sorted(_SPLIT, key=len, reverse=True))})({'|'.join(sorted(_ABOUT, key=len, reverse=True))})")
_SEVERAL = re.compile(rf"({'|'.join(_SPLIT)}){{2,}}")
_TOKEN = re.compile(r"[^\W\d_]+")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")


@lru_cache(maxsize=65536)
def _read(name: str) -> tuple[frozenset[str], bool]:
    """The splits whose words stand in a name, and whether nothing else does."""
    plain = "".join(letter for letter in unicodedata.normalize("NFKD", name) if not unicodedata.combining(letter))
    spaced = _CAMEL.sub(" ", unicodedata.normalize("NFC", plain))
    tokens = re.sub(r"\b(held|hold)\W*_?out\b", "holdout", " ".join(_TOKEN.findall(spaced)).lower()).split()
    found, alone = set(), True
    for token in tokens:
        ending = _ENDING.fullmatch(token)
        if token in _SPLIT:
            found.add(_SPLIT[token])
        elif ending:
            found.add(_SPLIT[ending.group(1)])
        elif _SEVERAL.fullmatch(token):  # `trainval`
            found |= {_SPLIT[word] for word in re.findall("|".join(_SPLIT), token)}
        elif token not in _ABOUT:
            alone = False
    return frozenset(found), alone


def split_of(name: str, alone: bool = False) -> str | None:
    """The split that a name means: `seg_train`, `Test Data`, `dev`, `holdout2`; None where it means none, or two.

    Args:
        alone: whether the words that say so must stand alone, as in `train_images_2`, not in `crash test`.
    """
    found, nothing_else = _read(name)
    return next(iter(found)) if len(found) == 1 and (nothing_else or not alone) else None


def mentions(name: str) -> bool:
    """Whether a word of a split stands in a name, readable or not (`trainval`), or one with a slip of the hand (`vaild`)."""
    return bool(_read(name)[0]) or any(token in _SLIPS or token.startswith(_BEGINNINGS) for token in _TOKEN.findall(name.lower()))


def _slips(word: str) -> set[str]:
    """A word with two neighbouring letters swapped, or one left out, but for the first."""
    swapped = {word[:k] + word[k + 1] + word[k] + word[k + 2 :] for k in range(len(word) - 1)}
    return swapped | ({word[:k] + word[k + 1 :] for k in range(1, len(word))} if len(word) > 5 else set())


_BEGINNINGS = ("train", "test", "valid")  # `Testfotografien`: whatever it is, it is not to be learnt from unasked
_SLIPS = frozenset(s for word in ("train", "training", "valid", "validation", "test", "testing") for s in _slips(word)) - _SPLIT.keys()
