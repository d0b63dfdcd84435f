"""The same program outside any Study: it trains with its defaults and says what it would report."""

import hpo
import pytest


def test_parameters_are_the_defaults_and_that_is_said_once(no_study):
    done = no_study.python("""
        import hpo
        print(dict(hpo.parameters(lr=0.1, layers=2)), dict(hpo.parameters(lr=0.1)))
    """)
    assert (done.returncode, done.stdout) == (0, b"{'lr': 0.1, 'layers': 2} {'lr': 0.1}\n")
    assert done.stderr == (b"hpo: outside any Study (HPO_PARAMETERS is not set), parameters are the defaults: lr=0.1, layers=2\n")


def test_without_defaults_there_are_no_parameters_and_that_is_said(no_study):
    done = no_study.python("import hpo; print(len(hpo.parameters()))")
    assert (done.returncode, done.stdout) == (0, b"0\n")
    assert done.stderr.endswith(b"parameters are the defaults: none\n")


def test_each_report_is_a_line_on_stderr(no_study):
    done = no_study.python("import hpo; hpo.report(val_loss=0.25, step=3); hpo.report({'valid_1 auc': float('nan')})")
    assert (done.returncode, done.stdout) == (0, b"")
    assert done.stderr == b"hpo: step 3: val_loss=0.25\nhpo: step 3: valid_1 auc=nan\n"
    assert list(no_study.folder.iterdir()) == []


def test_infeasible_says_why_and_ends_the_program(no_study):
    done = no_study.python("import hpo; hpo.infeasible('too large')")
    assert (done.returncode, done.stderr) == (86, b"hpo: infeasible: too large\n")


@pytest.mark.parametrize("stream", ["None", "open('/dev/full', 'w')", "open('/dev/null')", "closed"])
def test_a_stderr_that_cannot_be_written_to_does_not_stop_training(no_study, stream):
    done = no_study.python(f"""
        import sys, hpo
        closed = open("/dev/null", "w")
        closed.close()
        sys.stderr = {stream}
        hpo.parameters()
        hpo.report(loss=0.5)
        sys.stderr = None
        print("trained")
    """)
    assert (done.returncode, done.stdout) == (0, b"trained\n")


def test_importing_does_nothing_but_little_work(no_study):
    done = no_study.python("""
        import sys
        before = set(sys.modules)
        import hpo
        print(*sorted(set(sys.modules) - before))
    """)
    imported = set(done.stdout.decode().split())
    heavy = {"prometheus_client", "logging", "argparse", "subprocess", "http.server", "socket", "dataclasses", "inspect", "numpy"}
    assert not imported & heavy
    assert "importlib.metadata" not in imported
    assert (done.returncode, done.stderr) == (0, b"")


def test_what_the_package_shows_is_what_it_exports_and_documents():
    assert hpo.checkpoint.__name__ == "hpo.checkpoint"  # imported at its first use
    public = {name for name in vars(hpo) if not name.startswith("_") and name != "annotations"}
    assert public == set(hpo.__all__) - {"__version__"}
    assert all(getattr(hpo, name).__doc__ for name in public)
    assert hpo.__version__ == "0.1.0"
