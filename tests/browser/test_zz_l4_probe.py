from pathlib import Path
OUT=Path("/tmp/l4shots")
def test_own_folder(lab, open_notebook):
    nb = open_notebook("notebooks/workbench.ipynb")
    nb.run_all(240)
    assert nb.errors()==[] and nb.stderr()==[]
    nb.page.get_by_text("Images of your own").last.click()
    for label, text in (("folder","/tmp/l4imgs"),("teacher","test_resnet"),("student","test_efficientnett")):
        f = nb.locate(".kd-folder").get_by_label(label, exact=True); f.fill(text); f.press("Tab")
    nb.page.get_by_role("button", name="Load", exact=True).click()
    nb.page.wait_for_function("() => /Did you mean|closest|timm name/.test(document.querySelector('.kd-folder').innerText)", timeout=60000)
    nb.locate(".kd-train").first.screenshot(path=str(OUT/"lab_own_error.png"))
    f = nb.locate(".kd-folder").get_by_label("student", exact=True); f.fill("test_efficientnet"); f.press("Tab")
    nb.page.get_by_role("button", name="Load", exact=True).click()
    nb.page.wait_for_function("() => /Loaded/.test(document.querySelector('.kd-folder').innerText)", timeout=60000)
    nb.kernel("training._numbers['epochs_wanted'].value=3")
    nb.page.get_by_role("button", name="Start", exact=True).click()
    nb.page.wait_for_function("() => /^done/.test(document.querySelector('.kd-train .kd-status').innerText)", timeout=180000)
    nb.locate(".kd-train").first.screenshot(path=str(OUT/"lab_own_done.png"))
    nb.locate(".kd-explorer figcaption").first.wait_for(timeout=60000)
    nb.locate(".kd-explorer").first.screenshot(path=str(OUT/"lab_own_cka.png"))
    here = Path(__file__).parent
    print("A11Y", nb.locate(".kd-train").first.evaluate((here/"accessibility.js").read_text()))
    print("CONTRAST", nb.locate(".kd-train").first.evaluate((here/"contrast.js").read_text()))
    print("A11Y", nb.locate(".kd-explorer").first.evaluate((here/"accessibility.js").read_text()))
