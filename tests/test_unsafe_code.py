"""No line of distft loads files that can run code, or passes text to a shell; each exemption has its reason."""

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.support.sources import nodes

CHECKOUT = Path(__file__).parents[1]
FILES = sorted(file for folder in ("distft", "benchmarks", "slurm") for file in (CHECKOUT / folder).rglob("*.py"))

MODULES = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "marshal", "shelve", "joblib", "code", "codeop"}
CALLS = {  # the last parts of a name
    "eval", "exec", "compile", "__import__",
    "os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput",
    "yaml.unsafe_load", "yaml.full_load", "yaml.load_all", "yaml.unsafe_load_all", "yaml.full_load_all",
    "torch.load", "torch.jit.load", "torch.hub.load", "torch.package.PackageImporter", "torch.serialization.load",
    "pandas.read_pickle", "pd.read_pickle", "np.load", "numpy.load", "extractall", "unpack_archive",
    "jinja2.Template", "Template", "from_string", "load_state_dict_from_url", "torch_load", "dcp.load",
}  # fmt: skip
ALLOWED = {  # file -> what it may do, and why
    "distft/data/prompt_template.py": {"from_string"},  # in a sandbox; the template is the user's own key
    "distft/compat/chat_template.py": {"from_string"},  # in the library's sandbox; it has compiled the same text
    "distft/data/tokenize.py": {"trust_remote_code"},  # the user's own key, false by default
    "distft/config/model_folder.py": {"trust_remote_code"},
    "distft/plan/make.py": {"trust_remote_code"},
    "distft/prepare.py": {"trust_remote_code"},
}


def dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}".lstrip(".")
    return node.id if isinstance(node, ast.Name) else ""


def keyword(call: ast.Call, name: str) -> ast.expr | None:
    return next((each.value for each in call.keywords if each.arg == name), None)


def is_constant(node: ast.expr | None, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def unsafe(code: Iterable[ast.AST]) -> Iterator[tuple[int, str]]:
    """Yields the line and the word of each thing that may run what it reads."""
    for node in code:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        yield from ((node.lineno, name) for name in names if name.split(".")[0] in MODULES)
        if isinstance(node, ast.Dict):  # keywords that are handed on
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == "trust_remote_code" and not is_constant(value, False):
                    yield node.lineno, "trust_remote_code"
        if not isinstance(node, ast.Call):
            continue
        name = dotted(node.func)
        last = {name, name.rpartition(".")[2] if "." in name else name}
        found = sorted(last & CALLS)
        if name.endswith("torch.load") and is_constant(keyword(node, "weights_only"), True):
            found = []
        if name == "np.load" and is_constant(keyword(node, "allow_pickle"), False):
            found = []
        if name in ("re.compile", "torch.compile") or name.endswith(".eval") or name.endswith(".compile"):
            found = [each for each in found if each not in ("eval", "compile")]  # a model's mode, an expression
        yield from ((node.lineno, each) for each in found)
        if name == "yaml.load":
            yield node.lineno, name
        shell, remote = keyword(node, "shell"), keyword(node, "trust_remote_code")
        if shell is not None and not is_constant(shell, False):
            yield node.lineno, "shell"
        if remote is not None and not is_constant(remote, False):
            yield node.lineno, "trust_remote_code"
        if is_constant(keyword(node, "allow_pickle"), True):
            yield node.lineno, "allow_pickle"


def test_nothing_unsafe_is_called_anywhere():
    wrong = []
    for file in FILES:
        name = str(file.relative_to(CHECKOUT))
        allowed = ALLOWED.get(name, set())
        wrong += [f"{name}:{line}: {word}" for line, word in unsafe(nodes(file)) if word not in allowed]
    assert not wrong, "\n".join(wrong)


def test_every_exemption_is_in_use():
    for name, words in ALLOWED.items():
        assert {word for _, word in unsafe(nodes(CHECKOUT / name))} == words, name


def test_user_yaml_is_read_by_a_safe_loader():
    import yaml

    from distft.config.own_yaml import _Loader
    from distft.run import Loader, read_yaml

    assert issubclass(_Loader, yaml.SafeLoader) and not issubclass(_Loader, yaml.FullLoader | yaml.UnsafeLoader)
    assert Loader in (yaml.SafeLoader, getattr(yaml, "CSafeLoader", None))
    with pytest.raises(yaml.YAMLError, match="could not determine a constructor"):
        read_yaml("!!python/object/apply:os.getcwd []")


@pytest.mark.parametrize(
    "line",
    [
        "import pickle", "from pickle import loads", "import joblib.numpy_pickle", "import marshal",
        "torch.load(file)", "torch.load(file, weights_only=False)", "torch.load(file, weights_only=flag)",
        "yaml.load(text)", "yaml.load(text, Loader=yaml.Loader)", "yaml.unsafe_load(text)", "eval(text)", "exec(text)",
        "compile(text, '', 'exec')", "os.system(text)", "os.popen(text)", "subprocess.run(text, shell=True)",
        "subprocess.Popen(text, shell=flag)", "AutoModel.from_pretrained(x, trust_remote_code=True)",
        "options = {'trust_remote_code': asked}",
        "np.load(file, allow_pickle=True)", "numpy.load(file)", "archive.extractall(folder)", "Template(text)",
        "environment.from_string(text)", "torch.hub.load(x, y)", "__import__(name)", "shutil.unpack_archive(file)",
    ],
)  # fmt: skip
def test_forbidden_calls_are_detected(line: str):
    assert list(unsafe(ast.walk(ast.parse(line))))


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(file, weights_only=True)", "yaml.safe_load(text)", "re.compile(text)", "model.eval()",
        "subprocess.run(words)", "subprocess.run(words, shell=False)", "json.loads(text)",
        "from_pretrained(x, trust_remote_code=False)", "torch.compile(model)",
    ],
)  # fmt: skip
def test_safe_calls_are_allowed(line: str):
    assert not list(unsafe(ast.walk(ast.parse(line))))
