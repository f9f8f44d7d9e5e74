"""From a configuration to a model and SAEs that are loaded, fit each other and can be read."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from autointerp.config import Config
from autointerp.errors import UserError
from autointerp.harvest.runs import Run, demo_path

if TYPE_CHECKING:
    from autointerp.harvest.forward import Reader
    from autointerp.sae import SAE
    from autointerp.subject.hookpoints import Hookpoint
    from autointerp.subject.model import Subject


def open_readers(runs: Sequence[Run]) -> "list[Reader]":
    """One reader for each run's SAE, all of one subject model, which is loaded once."""
    from autointerp.harvest.forward import Reader

    subject = load_model(runs[0].config)
    saes = [load_dictionary(run.config, subject) for run in runs]
    hookpoints = [resolve_hook(run.config, subject, sae) for run, sae in zip(runs, saes, strict=True)]
    wishes = [wants_bos(run.config, subject, sae) for run, sae in zip(runs, saes, strict=True)]
    if len(set(wishes)) > 1:
        raise UserError("of the SAEs given together some were trained with BOS before each window and some without, and one "
                        "pass can do only one of them; set corpus.prepend_bos, or harvest them apart")  # fmt: skip
    return [
        Reader(subject, sae, hookpoint, prepend_bos=wishes[0], max_norm=runs[0].config.sample.max_norm)
        for sae, hookpoint in zip(saes, hookpoints, strict=True)
    ]


def load_subject_and_sae(config: Config) -> "tuple[Subject, SAE]":
    """Both, from the configuration's paths; "demo" stands for the embedded ones."""
    subject = load_model(config)
    return subject, load_dictionary(config, subject)


def load_model(config: Config) -> "Subject":
    """The subject. On a CPU it runs in float32 unless another type is named: half precision is slower there, not faster."""
    import torch

    from autointerp.subject.model import load_subject

    given = config.subject
    model = demo_path("model") if given.model == "demo" else given.model
    on_cpu = given.device.startswith("cpu") or (given.device == "auto" and not torch.cuda.is_available())
    dtype = "float32" if given.dtype == "auto" and on_cpu else given.dtype
    return load_subject(model, device=given.device, dtype=dtype, revision=given.revision)


def load_dictionary(config: Config, subject: "Subject") -> "SAE":
    """The SAE, on the subject's device."""
    from autointerp.sae import load_sae
    from autointerp.subject.model import absorb_norm_gain

    path = demo_path("sae") if config.sae.path == "demo" else config.sae.path
    return absorb_norm_gain(subject, load_sae(path, format=config.sae.format).to(subject.device))


def resolve_hook(config: Config, subject: "Subject", sae: "SAE") -> "Hookpoint":
    """The hookpoint of the run, checked: it exists, and its width is the SAE's."""
    from autointerp.subject.hookpoints import resolve_hookpoint
    from autointerp.subject.model import check_fit

    name = config.sae.hookpoint or sae.hook_in
    if name is None:
        raise UserError(f"{config.sae.path}: the SAE's files do not say where it reads; name the module with --hookpoint, "
                        "for instance --hookpoint model.layers.2")  # fmt: skip
    hookpoint = resolve_hookpoint(subject.model, name)
    check_fit(subject, sae, hookpoint)
    return hookpoint


def wants_bos(config: Config, subject: "Subject", sae: "SAE") -> bool:
    """Whether windows begin with BOS: as configured, else as the SAE was trained, else where the tokenizer has one."""
    has_bos = subject.tokenizer.bos_token_id is not None
    if config.corpus.prepend_bos is None:
        return has_bos and sae.prepend_bos is not False
    if config.corpus.prepend_bos and not has_bos:
        raise UserError(
            "corpus.prepend_bos = true, but the tokenizer has no BOS token; leave it out or set it to false"
        )
    return config.corpus.prepend_bos
