"""A tiny Gemma 3 made from a seed: the same classes, template and tokens as the real one, in seconds and offline.

The embeddings are initialised wide (0.2): a frozen base with them at 0.02 learns worse through LoRA, measured.
"""

import os
import random
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from hashlib import sha256
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, PreTrainedTokenizerFast

from training_service.artifact import canonical_json, sync_folder
from training_service.sections import PROMPT, new_archive

PAD, EOS, BOS, UNKNOWN = "<pad>", "<eos>", "<bos>", "<unk>"
TURN_BEGINS, TURN_ENDS = "<start_of_turn>", "<end_of_turn>"
SPECIAL = (PAD, EOS, BOS, UNKNOWN, TURN_BEGINS, TURN_ENDS)

CHAT_TEMPLATE = """\
{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- set first_prefix = messages[0]['content'] + '\n\n' -%}
    {%- set turns = messages[1:] -%}
{%- else -%}
    {%- set first_prefix = '' -%}
    {%- set turns = messages -%}
{%- endif -%}
{%- for message in turns -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception('expected turns of user and assistant to alternate, beginning with user') }}
    {%- endif -%}
    {%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}
    {{ '<start_of_turn>' + role + '\n' + (first_prefix if loop.first else '') }}
    {{- message['content'] | trim }}
    {{- '<end_of_turn>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{ '<start_of_turn>model\n' }}
{%- endif -%}
"""
"""What Gemma's own template does with text turns: the system turn goes in front of the first user turn."""

SPLIT = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+"
"""Words with the space before them, numbers of three digits, a line break alone: the prompt's last line break
never grows together with what follows, so the tokens of a prompt are a prefix of those of the whole."""

VOCABULARY, HIDDEN, LAYERS, HEADS, EMBEDDING_DEVIATION = 1024, 192, 2, 6, 0.2
MAX_TOKENS = 2048


def make_tiny_gemma(
    folder: Path,
    *,
    seed: int,
    corpus: Iterable[str] | None = None,
    hidden: int = HIDDEN,
    layers: int = LAYERS,
    heads: int = HEADS,
    vocabulary: int = VOCABULARY,
) -> Path:
    """Return the folder of a tiny Gemma 3 with random weights; made where it is not there yet.

    The folder's name holds a digest of everything that decides its content; it appears whole or not at all.

    Args:
        folder: The cache; the model gets a sub-folder.
        seed: Of the weights, and of the corpus where none is given.
        corpus: Text that the tokenizer learns its pieces from.
        hidden: Width; a multiple of twice the *heads*.
        layers: Transformer layers.
        heads: Attention heads.
        vocabulary: Most tokens; 262 at least (six special ones and every byte).
    """
    texts = list(seeded_corpus(seed) if corpus is None else corpus)
    facts = [2, seed, hidden, layers, heads, vocabulary, CHAT_TEMPLATE, SPLIT, texts]
    final = folder / f"tiny-gemma3-{sha256(canonical_json(facts)).hexdigest()[:16]}"
    if (final / "config.json").is_file():
        return final
    folder.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".new-", dir=folder))
    try:
        tokenizer = train_tokenizer(texts, vocabulary)
        tokenizer.save_pretrained(work)
        model = random_gemma(tokenizer, seed=seed, hidden=hidden, layers=layers, heads=heads)
        model.save_pretrained(work)
        for path in work.iterdir():
            os.chmod(path, 0o644)
        os.chmod(work, 0o755)
        try:
            work.rename(final)
        except OSError:
            if not (final / "config.json").is_file():  # else another process was faster: the content is the same
                raise
        sync_folder(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return final


def random_gemma(
    tokenizer: PreTrainedTokenizerFast, *, seed: int, hidden: int, layers: int, heads: int
) -> Gemma3ForCausalLM:
    """Return a Gemma 3 for text in float32 whose weights follow from *seed*; the caller's random state is kept."""
    config = Gemma3TextConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=hidden // heads,
        query_pre_attn_scalar=hidden // heads,
        max_position_embeddings=MAX_TOKENS,
        pad_token_id=tokenizer.convert_tokens_to_ids(PAD),
        bos_token_id=tokenizer.convert_tokens_to_ids(BOS),
        eos_token_id=[tokenizer.convert_tokens_to_ids(token) for token in (EOS, TURN_ENDS)],
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Gemma3ForCausalLM(config).float()
        embeddings = model.get_input_embeddings().weight
        with torch.no_grad():
            embeddings.normal_(0.0, EMBEDDING_DEVIATION)
            embeddings[config.pad_token_id].zero_()
    return model


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer for any text, with Gemma's special tokens and chat template."""
    pieces = Tokenizer(models.BPE(unk_token=UNKNOWN))
    pieces.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    pieces.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    pieces.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=pieces,
        pad_token=PAD,
        eos_token=EOS,
        bos_token=BOS,
        unk_token=UNKNOWN,
        additional_special_tokens=[TURN_BEGINS, TURN_ENDS],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=MAX_TOKENS,
        padding_side="left",
    )


_ONSETS = "b br c ch d dr f fl g gr h j k l m n p pl pr qu r s sh sl st t th tr v w"
_RIMES = "a ad ain al an ar ate e ed eet el en er est i ice ide in ing ion it ive o old on or ound ow u um un ure y"
_PLAIN = """
the of and to in a is that it for on with as was at by be this have from or one had not but what all were when
we there can an your which their if do will each about how up out them then she many some so these would other
into has more her two like him see time could no make than first been its who now people my made over did down
only way find use may water long little very after words called just where most know get through back much
before go good new write our used me man too any day same right look think also around another came come work
three word must because does part even place well such here take why things help put years different away again
off went old number great tell men say small every found still between name should home give air line set own
under read last never us left end along while might next sound below saw something thought both few those
always looked show large often together asked house world going want file digest question answer learn user model
"""


def seeded_corpus(seed: int, *, n_sentences: int = 4000) -> Iterator[str]:
    """Give sentences of common and made-up words, and digests such as the newsroom's, all made from *seed*.

    The tokenizer learns whole words and syllables from them; the weights see none of it.
    """
    digests, _ = new_archive(seed, n_training=n_sentences // 4, n_held_out=0)
    for digest in digests:
        yield f"{PROMPT}{digest.text}\n{digest.section}"
    chance = random.Random(f"corpus:{seed}")
    onsets, rimes, plain = _ONSETS.split(), _RIMES.split(), _PLAIN.split()
    made_up = [
        "".join(chance.choice(onsets) + chance.choice(rimes) for _ in range(chance.randint(1, 3))) for _ in range(600)
    ]
    for _ in range(n_sentences):
        words = [chance.choice(plain if chance.random() < 0.7 else made_up) for _ in range(chance.randint(4, 12))]
        ending = chance.choice((".", ".", ".", "?", "!", ":"))
        yield " ".join(words).capitalize() + ending
