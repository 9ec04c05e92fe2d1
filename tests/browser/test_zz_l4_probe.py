"""Live check of both notebooks through the browser harness of the repository."""
import re, pytest, os, json
from pathlib import Path
import sys
sys.path.insert(0, "/work/main/tests/browser")
from conftest import *  # fixtures
OUT=Path("/tmp/l4shots")

def shot(nb, name, sel=None):
    t = nb.locate(sel).first if sel else nb.page
    t.screenshot(path=str(OUT/f"{name}.png"))

def wait(nb, js, arg=None, t=120): nb.page.wait_for_function(js, arg=arg, timeout=1000*t)

def test_workbench(lab, open_notebook):
    nb = open_notebook("notebooks/workbench.ipynb")
    nb.run_all(240)
    assert nb.errors()==[] and nb.stderr()==[]
    shot(nb,"lab_wb_idle",".kd-train"); 
    print("BEFORE", nb.locate(".kd-explorer .kd-viewbox").inner_text())
    b={n: nb.page.get_by_role("button", name=n, exact=True) for n in ("Start","Stop","Resume")}
    nb.kernel("training._numbers['epochs_wanted'].value=60")
    b["Start"].click()
    wait(nb,"() => /^running: step/.test(document.querySelector('.kd-train .kd-status').innerText)")
    shot(nb,"lab_wb_running",".kd-train")
    b["Stop"].click()
    wait(nb,"() => /^stopped/.test(document.querySelector('.kd-train .kd-status').innerText)")
    print("STOPPED", nb.kernel("print(training.state.steps, training.state.epochs, training.state.message)"))
    shot(nb,"lab_wb_stopped",".kd-train")
    b["Resume"].click()
    wait(nb,"() => /^done/.test(document.querySelector('.kd-train .kd-status').innerText)")
    print("DONE", nb.kernel("print(training.state.steps, training.state.message, len(training.outcomes))"))
    nb.locate(".kd-explorer figcaption").first.wait_for(timeout=60000)
    shot(nb,"lab_wb_after",".kd-explorer")
    nb.page.get_by_label("method", exact=True).select_option(label="PLD")
    wait(nb,"() => !/kd weight/.test(document.querySelector('.kd-train').innerText)")
    b["Start"].click()
    wait(nb,"() => /^done/.test(document.querySelector('.kd-train .kd-status').innerText)", t=200)
    shot(nb,"lab_wb_pld",".kd-train")
    wait(nb,"() => [...document.querySelectorAll('.kd-explorer figcaption')].some(e => /PLD/.test(e.innerText))")
    nb.page.get_by_label("compare with", exact=True).select_option(label="KD (training 1)")
    wait(nb,"() => [...document.querySelectorAll('.kd-explorer figcaption')].some(e => /KD \\(training 1\\)/.test(e.innerText))")
    shot(nb,"lab_wb_compare",".kd-explorer")
    for pic in ("agreement of the rankings","confusion","one sample"):
        nb.page.get_by_label("picture", exact=True).select_option(label=pic)
        nb.page.wait_for_timeout(3000)
        shot(nb,"lab_wb_"+pic.replace(" ","_"),".kd-explorer")
    print("ERR", nb.kernel("print(comparison.state.error, training.job.observer_error, training.state.error)"))
    nb.page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')"); nb.page.wait_for_timeout(1500)
    print("FILES", sorted(p.name for p in (lab.root/"notebooks").iterdir()))

def test_start(lab, open_notebook):
    nb = open_notebook("notebooks/00_start_here.ipynb")
    nb.run_all(240)
    assert nb.errors()==[] and nb.stderr()==[]
    nb.locate(".kd-explorer figcaption").first.wait_for(timeout=60000)
    shot(nb,"lab_start_explorer",".kd-explorer")
    shot(nb,"lab_start_chart",".kd-livechart")
    shot(nb,"lab_start_gallery",".kd-gallery")
    nb.locate(".kd-gallery a").nth(2).click()
    nb.page.wait_for_function("() => /pld/.test(window.jupyterapp.shell.currentWidget?.title?.label ?? '')", timeout=20000)
    print("OPENED", nb.page.evaluate("() => window.jupyterapp.shell.currentWidget.context.path"))
