"""`distft human_eval`: people compare answers blindly; plan, create, serve, status, analyze, export."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from distft.config.command import command, keywords
from distft.config.errors import ConfigError, did_you_mean, nearest
from distft.human_eval.study import find_study
from distft.judges import is_option
from distft.run import read_json

SERVE_KEYS = {
    "study": "the study's folder",
    "host": "address to listen on (default 127.0.0.1: this machine alone)",
    "port": "port to listen on (default 8340); 0: a free one",
    "origin": "public address of a proxy in front, such as https://study.example.org",
}
SERVE_CLAIM = "serve: serves the pages of a study until Ctrl-C. Votes are saved before they are acknowledged."
STATUS_KEYS = {"study": "the study's folder"}
STATUS_CLAIM = "status: prints how far each rater is, without any result."


def serve(given: Mapping[str, str]) -> int:
    """Serves until Ctrl-C or SIGTERM, and returns 0."""
    from distft.human_eval.arguments import Arguments
    from distft.human_eval.server import listen
    from distft.human_eval.server import serve as run

    read = Arguments(given)
    port, host, origin = read.integer("port", 8340, 0, 65535), given.get("host", "127.0.0.1"), given.get("origin")
    if origin is not None and not origin.startswith(("http://", "https://")):
        read.errors.append(f"origin={origin}: expected an address such as https://study.example.org")
    if read.errors:
        raise ConfigError(read.errors)
    study = find_study(given["study"])
    with listen(host, port) as bound:
        shown = f"[{host}]" if ":" in host else host
        address = origin or f"http://{shown}:{bound.getsockname()[1]}"
        links = read_json(study.links_file) if study.links_file.is_file() else None
        print(f"serving {study.path.name} on {address}, until Ctrl-C", flush=True)
        if links is not None and not sys.stdout.isatty():  # a log is no place for tokens
            print(f"  links: {study.links_file}")
        elif links is not None:
            for link in links["raters"]:
                print(f"  {link['rater']}  {address}{link['path']}")
            print(f"  progress  {address}{links['admin']['path']}")
        if host not in ("127.0.0.1", "::1", "localhost") and not (origin or "").startswith("https://"):
            print(
                "note: others on the network can read the links and votes. Try: a proxy with TLS, and origin=https://..."
            )
        sys.stdout.flush()
        run(study, bound, origin)
    return 0


def status(given: Mapping[str, str]) -> int:
    """Prints the progress of each rater, and returns 0."""
    from distft.human_eval.votes import Votes

    study = find_study(given["study"])
    votes = Votes(study.votes_file)
    raters = votes.raters()
    closed = ", closed" if votes.is_closed() else ""
    done, total = sum(each[2] for each in raters), sum(each[1] for each in raters)
    print(f"{study.path.name}: {done} of {total} pages done{closed}")
    for name, pages, voted in raters:
        print(f"  {name}  {voted:>4} of {pages}")
    votes.close()
    return 0


@dataclass(frozen=True)
class Verb:
    """What follows `distft human_eval`."""

    run: Callable[[Mapping[str, str]], int]
    keys: Mapping[str, str]
    required: tuple[str, ...]
    claim: str


VERBS = ("plan", "create", "serve", "status", "analyze", "export")


def verb(name: str) -> Verb:
    """Returns a verb; the statistics, which take two seconds to import, are imported for those that use them."""
    if name == "serve":
        return Verb(serve, SERVE_KEYS, ("study",), SERVE_CLAIM)
    if name == "status":
        return Verb(status, STATUS_KEYS, ("study",), STATUS_CLAIM)
    if name == "create":
        from distft.human_eval import create, create_keys

        return Verb(create.create, create_keys.KEYS, ("study", "raters"), create_keys.CLAIM)
    if name == "plan":
        from distft.human_eval import power

        return Verb(power.plan, power.KEYS, ("effect",), power.CLAIM)
    if name == "analyze":
        from distft.human_eval import analyze

        return Verb(analyze.analyze, analyze.KEYS, ("study",), analyze.CLAIM)
    from distft.human_eval import preferences

    return Verb(preferences.export, preferences.KEYS, ("study", "out"), preferences.CLAIM)


def main(arguments: list[str]) -> int:
    """Runs a verb and returns its exit code; ConfigError for another word."""
    if not arguments or arguments[0] not in VERBS:
        word = arguments[0] if arguments else ""
        meant = did_you_mean(nearest(word, VERBS)) if word else ""
        raise ConfigError([f"human_eval {word}: expected a verb.{meant} Allowed: {', '.join(VERBS)}"])
    asked, words = verb(arguments[0]), arguments[1:]
    options = [word for word in words if "judge" in asked.keys and is_option(word.partition("=")[0])]
    given = keywords([word for word in words if word not in options], asked.keys, asked.required)
    return asked.run(given | {key: value for key, _, value in (word.partition("=") for word in options)})


def help_text(arguments: list[str]) -> str:
    """Returns what --help prints: of one verb where it is named, else of all."""
    named = [each for each in arguments if each in VERBS] or list(VERBS)
    parts = [f"usage: python -m distft.human_eval {'|'.join(VERBS)} [KEY=VALUE ...]"]
    for asked in map(verb, named):
        keys = [f"  {key + '=':<20}{text}" for key, text in asked.keys.items()]
        parts += ["\n".join([asked.claim, "", *keys])]
    return "\n\n".join(parts)


if __name__ == "__main__":
    is_help = {"--help", "-h"} & set(sys.argv[1:])
    command(main, help=help_text(sys.argv[1:]) if is_help else "")
