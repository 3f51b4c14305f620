"""Writes what the Java tokenizers are compared with, by Python's tokenizers library.

    python make_samples.py                           # samples/: ids of the small tokenizers there
    python make_samples.py TOKENIZER TEXTS... OUT    # OUT/: a real tokenizer.json and the ids of 10,000 lines

TEXTS are .jsonl files with a field "text". Then `python android_demo/jvm.py core --cases OUT` compares them, too.
"""

import json
import random
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


def cases(tokenizer: Tokenizer, texts: list[str], special: bool, out: Path) -> None:
    """One line for each text: it and its ids."""
    with open(out, "w", encoding="utf-8") as file:
        for text, encoding in zip(
            texts, tokenizer.encode_batch(texts, add_special_tokens=special), strict=True
        ):
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
        cases(Tokenizer.from_file(str(path)), texts, False, SAMPLES / f"{name}.cases.jsonl")
    for name, lowercase in (("wordpiece", True), ("wordpiece_cased", False)):
        path = SAMPLES / f"{name}.json"
        if not path.exists():
            train_wordpiece(lowercase).save(str(path))
        cases(Tokenizer.from_file(str(path)), texts, True, SAMPLES / f"{name}.cases.jsonl")


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
    cases(tokenizer, lines, json.loads(text)["model"]["type"] == "WordPiece", out / "cases.jsonl")
    print(f"{out}: {len(lines)} lines of {len(sources)} files")


if __name__ == "__main__":
    if len(sys.argv) == 1:
        small()
    elif len(sys.argv) > 3:
        real(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:-1]], Path(sys.argv[-1]))
    else:
        sys.exit(__doc__)
