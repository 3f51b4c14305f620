"""Writes what the Java tokenizers are compared with, by Python's tokenizers library.

    python make_samples.py                           # samples/: ids of the small tokenizers there
    python make_samples.py TOKENIZER TEXTS... OUT    # OUT/: a real tokenizer.json and the ids of 10,000 lines

TEXTS are .jsonl files with a field "text". Then `python android_demo/jvm.py core --cases OUT` compares them, too.
"""

import json
import random
import struct
import sys
import unicodedata
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

SAMPLES = Path(__file__).parent / "samples"
LINES = 10_000
TEXTS = [
    "The quick brown fox jumps over the lazy dog; it's 12 o'clock and they've seen 1,234.56 of them.",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich – „schön“, sagte er.",
    "Voyez le brick géant que j'examine près du wharf : ça coûte 5 € à l'œil.",
    "Съешь же ещё этих мягких французских булок, да выпей чаю. ΟΔΥΣΣΕΥΣ είναι ο Οδυσσέας.",
    "いろはにほへと ちりぬるを 我が世誰ぞ 常ならむ。漢字かな交じり文",
    "天地玄黄，宇宙洪荒。日月盈昃，辰宿列张。",
    "다람쥐 헌 쳇바퀴에 타고파. صِف خَلقَ خَودِ كَمِثلِ الشَمسِ ऋषियों को सताने वाले दुष्ट राक्षसों",
    "İstanbul'da ılık bir gün. Ǆ ǅ ǆ ﬁ ﬃ ẞ Å Å é é n̈ ½ ² ① Ⅷ ١٢٣ 💡👩‍👩‍👧🏽 🇩🇪",
    "tabs\tand\r\nlines\n\n\n   many   spaces  \u00a0\u2003\u3000\u0085 \u200b\ufeff end ",
    "don't DON'T we'll I'D 'tis x's'll don’t <|im_start|>user\nHi<|im_end|>\n[MASK] [mask] a[SEP]b "
    "snake_case $x^2 = `y` ~z",
    "",
    " ",
    "\n",
]


def cases(tokenizer: Tokenizer, texts: list[str], out: Path) -> None:
    """One line for each text: it and its ids."""
    with open(out, "w", encoding="utf-8") as file:
        for text, encoding in zip(texts, tokenizer.encode_batch(texts), strict=True):
            file.write(json.dumps({"text": text, "ids": encoding.ids}) + "\n")


def strange(count: int) -> list[str]:
    """Texts of random characters from everywhere; of Unicode 8 only, which all tables here know."""
    source = random.Random(0)
    known = [
        c
        for c in map(chr, [*range(0x20, 0xD800), *range(0xE000, 0xFFFE), *range(0x1F300, 0x1F650)])
        if unicodedata.ucd_3_2_0.category(c) not in ("Cn", "Co")
    ]
    texts = []
    for _ in range(count):
        pieces = [source.choice(known[:600] if source.random() < 0.5 else known) for _ in range(30)]
        texts.append("".join(piece * source.choice([1, 1, 1, 3]) for piece in pieces))
    return texts


def train_bpe(kind: pre_tokenizers.PreTokenizer) -> Tokenizer:
    """500 tokens of TEXTS, with words as `kind` cuts them."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = kind
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.add_tokens([AddedToken("snake_case", normalized=True)])
    return tokenizer


def train_wordpiece(lowercase: bool) -> Tokenizer:
    """600 tokens of TEXTS, as BERT's tokenizers are made."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=600, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    ids = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=ids)
    return tokenizer


def train_pieces() -> Tokenizer:
    """Characters with byte fallback, as Gemma's tokenizer is made; NFC besides."""
    special = ["<unk>", "<bos>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=special, limit_alphabet=120, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    bos = tokenizer.token_to_id("<bos>")
    tokenizer.post_processor = processors.TemplateProcessing("<bos> $A", special_tokens=[("<bos>", bos)])
    return tokenizer


def train_unknown() -> Tokenizer:
    """Characters without fallback, and added tokens with every flag."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<unk>"], limit_alphabet=60, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.add_tokens(
        [
            AddedToken("Sylter", normalized=True, lstrip=True),
            AddedToken("<|im_end|>", normalized=False, rstrip=True),
            AddedToken("lines", normalized=True, lstrip=True, rstrip=True),
            AddedToken("am", normalized=True, single_word=True),
            AddedToken("a", normalized=False, single_word=True),
        ]
    )
    return tokenizer


def train_unigram() -> Tokenizer:
    """As T5's tokenizers are made, with the normalizers that need no table."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFKC(),
            normalizers.Strip(),
            normalizers.Replace(Regex(" {2,}"), " "),
            normalizers.Prepend("~"),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=400, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS[:6], trainer)
    tokenizer.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    return tokenizer


def cuts() -> None:
    """What pre-tokenizers make of the texts: cuts.jsonl, one step for each line."""
    space = Regex(r"\s")
    steps: list[pre_tokenizers.PreTokenizer] = [
        *(
            pre_tokenizers.Split(space, behavior, invert)
            for behavior in ("removed", "isolated", "contiguous", "merged_with_previous", "merged_with_next")
            for invert in (False, True)
        ),
        *(pre_tokenizers.Metaspace(prepend_scheme=scheme) for scheme in ("always", "first", "never")),
        pre_tokenizers.Metaspace(split=False),
        pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]),
        pre_tokenizers.Digits(individual_digits=False),
        pre_tokenizers.BertPreTokenizer(),
        pre_tokenizers.Sequence(
            [
                pre_tokenizers.WhitespaceSplit(),
                pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False),
            ]
        ),
    ]
    texts = [text for text in TEXTS if text]
    with open(SAMPLES / "cuts.jsonl", "w", encoding="utf-8") as file:
        for step in steps:
            tokenizer = Tokenizer(models.BPE())
            tokenizer.pre_tokenizer = step
            words = [[word for word, _ in step.pre_tokenize_str(text)] for text in texts]
            described = json.loads(tokenizer.to_str())["pre_tokenizer"]
            file.write(json.dumps({"pre_tokenizer": described, "texts": texts, "words": words}) + "\n")


def table() -> bytes:
    """A precompiled_charsmap of A -> b, é -> e and a line's end -> a space, in SentencePiece's format."""
    texts = b"b\0e\0 \0"
    trie = [0] * 2048
    leaf, free = 1 << 8, iter((0x100, 0x200, 0x300, 0x400, 0x500))

    def put(key: bytes, place: int) -> None:
        node = 0
        for number, byte in enumerate(key):
            node ^= byte
            offset = next(free)
            trie[node] = byte | offset << 10 | (leaf if number + 1 == len(key) else 0)
            node ^= offset
        trie[node] = place

    put(b"A", 0)
    put("é".encode(), 2)
    put(b"\n", 4)
    return struct.pack(f"<I{len(trie)}I", 4 * len(trie), *trie) + texts


def changes() -> None:
    """What normalizers make of the texts: changes.jsonl, one normalizer for each line."""
    kinds: list[normalizers.Normalizer] = [
        *(kind() for kind in (normalizers.NFC, normalizers.NFD, normalizers.NFKC, normalizers.NFKD)),
        normalizers.Lowercase(),
        normalizers.StripAccents(),
        *(normalizers.Strip(left, right) for left in (False, True) for right in (False, True)),
        normalizers.Prepend("▁"),
        normalizers.Replace(" ", "$1▁"),
        normalizers.Replace(Regex(r"\s+"), ""),
        normalizers.Precompiled(table()),
        normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()]),
        normalizers.BertNormalizer(),
        normalizers.BertNormalizer(lowercase=False, strip_accents=True, clean_text=False),
        normalizers.BertNormalizer(strip_accents=False, handle_chinese_chars=False),
    ]
    texts = [*(text for text in TEXTS if text), "ABA\u0301 é e\u0301 A\u20dd\r\n é\u0301", *strange(10)]
    with open(SAMPLES / "changes.jsonl", "w", encoding="utf-8") as file:
        for kind in kinds:
            tokenizer = Tokenizer(models.BPE())
            tokenizer.normalizer = kind
            described = json.loads(tokenizer.to_str())["normalizer"]
            changed = [kind.normalize_str(text) for text in texts]
            file.write(json.dumps({"normalizer": described, "texts": texts, "changed": changed}) + "\n")


def templates() -> None:
    """What post-processors put around a text: templates.jsonl, one for each line."""
    template = processors.TemplateProcessing("<s> $A </s> </s>", special_tokens=[("<s>", 7), ("</s>", 8)])
    kinds: list[processors.PostProcessor] = [
        processors.ByteLevel(),
        template,
        processors.TemplateProcessing("$A", special_tokens=[]),
        processors.Sequence([processors.ByteLevel(), template]),
        processors.BertProcessing(("</s>", 8), ("<s>", 7)),
        processors.RobertaProcessing(("</s>", 8), ("<s>", 7)),
    ]
    with open(SAMPLES / "templates.jsonl", "w", encoding="utf-8") as file:
        for kind in kinds:
            tokenizer = Tokenizer.from_file(str(SAMPLES / "bpe.json"))
            tokenizer.post_processor = kind
            described = json.loads(tokenizer.to_str())["post_processor"]
            plain, whole = (
                tokenizer.encode("a b", add_special_tokens=special).ids for special in (False, True)
            )
            file.write(json.dumps({"post_processor": described, "plain": plain, "whole": whole}) + "\n")


def small() -> None:
    """The committed samples; a tokenizer is trained where its file is missing: WordPiece's trainer ends up with
    another one each time."""
    SAMPLES.mkdir(exist_ok=True)
    texts = [*TEXTS, *strange(60)]
    kinds = {
        "bpe": pre_tokenizers.ByteLevel(add_prefix_space=False),
        "bpe_digits": pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        ),
        "bpe_split": pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(
                    Regex(
                        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
                        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
                    ),
                    "isolated",
                ),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        ),
    }
    for name, kind in kinds.items():
        path = SAMPLES / f"{name}.json"
        if not path.exists():
            train_bpe(kind).save(str(path))
        cases(Tokenizer.from_file(str(path)), texts, SAMPLES / f"{name}.cases.jsonl")
    for name, lowercase in (("wordpiece", True), ("wordpiece_cased", False)):
        path = SAMPLES / f"{name}.json"
        if not path.exists():
            train_wordpiece(lowercase).save(str(path))
        cases(Tokenizer.from_file(str(path)), texts, SAMPLES / f"{name}.cases.jsonl")
    for name, train in (("pieces", train_pieces), ("unknown", train_unknown), ("unigram", train_unigram)):
        path = SAMPLES / f"{name}.json"
        if not path.exists():
            train().save(str(path))
        cases(Tokenizer.from_file(str(path)), texts, SAMPLES / f"{name}.cases.jsonl")
    cuts()
    changes()
    templates()


def real(path: Path, sources: list[Path], out: Path) -> None:
    """A real tokenizer and as many lines of each source."""
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    lines: list[str] = []
    for number, source in enumerate(sources):
        with open(source, encoding="utf-8") as file:
            found = [line for text in file for line in json.loads(text)["text"].split("\n") if line.strip()]
        wanted = (LINES - len(lines)) // (len(sources) - number)
        lines += found[:: max(1, len(found) // wanted)][:wanted]
    out.mkdir(parents=True, exist_ok=True)
    text = path.read_text(encoding="utf-8")
    (out / "tokenizer.json").write_text(text, encoding="utf-8")
    cases(tokenizer, lines, out / "cases.jsonl")
    print(f"{out}: {len(lines)} lines of {len(sources)} files")


if __name__ == "__main__":
    if len(sys.argv) == 1:
        small()
    elif len(sys.argv) > 3:
        real(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:-1]], Path(sys.argv[-1]))
    else:
        sys.exit(__doc__)
