"""The served page is that of the run as it is now, for this machine alone."""

import http.client

import pytest

from distft.config.command import command
from distft.report.__main__ import main
from distft.report.serve import serving
from tests.report.conftest import eval_row


def get(address: str, path: str = "/", host: str | None = None) -> tuple[int, str]:
    connection = http.client.HTTPConnection(address.split("/")[2], timeout=60)
    connection.request("GET", path, headers={"Host": host} if host else {})
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


@pytest.mark.slow
def test_a_running_page_is_loaded_again_until_the_end(make_run) -> None:
    run = make_run(rows=[eval_row(0, 2.5)], state="running")
    with serving(run, 0) as address:
        status, page = get(address)
        assert status == 200 and 'http-equiv="refresh"' in page and "The run is at step 8 of 8." in page
        run.write_status(state="completed")
        assert 'http-equiv="refresh"' not in get(address)[1]


@pytest.mark.slow
def test_other_names_and_other_files_are_refused(make_run) -> None:
    with serving(make_run(), 0) as address:
        assert address.startswith("http://127.0.0.1:")
        assert get(address, host="attacker.example")[0] == 403
        assert get(address, "/config.yaml")[0] == 404 == get(address, "/../config.yaml")[0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["sweep=a", "serve=true"], "serve=true: shows one run"),
        (["run=a", "serve=yes"], "serve=yes: is true or false"),
        (["run=a", "serve=true", "port=70000"], "port=70000: is a number from 0 to 65535"),
        (["run=a", "port=80"], "port=80: only serve=true takes it"),
        (["run=a", "out=b"], "out=b: only runs= takes it"),
        (["runs=[a]"], "names 1 run. Try: 2 to 8 folders"),
        (["runs=[/no,/none]"], "run=/no: holds no run"),
    ],
)
def test_keys_that_do_not_fit_are_refused(arguments, said, capsys) -> None:
    with pytest.raises(SystemExit) as end:
        command(main, arguments)
    assert end.value.code == 2 and said in capsys.readouterr().err


@pytest.mark.slow
def test_a_port_in_use_is_named(make_run, capsys) -> None:
    run = make_run()
    with serving(run, 0) as address:
        port = address.strip("/").rpartition(":")[2]
        with pytest.raises(SystemExit) as end:
            command(main, [f"run={run.path}", "serve=true", f"port={port}"])
        assert end.value.code == 2 and f"port={port}: Address already in use" in capsys.readouterr().err
