"""Somebody in front of the page of demo.py."""


class Visitor:
    """Somebody in front of a browser."""

    def __init__(self, browser):
        from selenium.webdriver import ActionChains
        from selenium.webdriver.support.ui import WebDriverWait

        self.browser, self.actions, self.waiting = browser, ActionChains, WebDriverWait(browser, 60)

    def all(self, selector):
        return self.browser.find_elements("css selector", selector)

    def one(self, selector):
        return self.browser.find_element("css selector", selector)

    def text(self, selector):
        return self.one(selector).text

    def wait_for(self, selector, *words):
        """Until the text of an element holds all the words."""
        self.waiting.until(lambda _: all(word in self.text(selector) for word in words), f"{words} in {selector}")

    def drop(self, *files):
        self.waiting.until(lambda _: self.all("#files input[type=file]"))
        self.one("#files input[type=file]").send_keys("\n".join(map(str, files)))
        self.wait_for("#results", *(file.name for file in files), "outline")

    def stroke(self, tool, start, end):
        """Draw a line with the mouse, from and to a place given as shares of the canvas."""
        self.one(f"#editor [data-tool={tool}]").click()
        canvas = self.one("#editor canvas")
        self.browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
        size = canvas.size["width"], canvas.size["height"]
        offsets = [[round((at - 0.5) * side) for at, side in zip(place, size, strict=True)] for place in (start, end)]
        pointer = self.actions(self.browser).move_to_element_with_offset(canvas, *offsets[0]).click_and_hold()
        pointer.move_to_element_with_offset(canvas, *offsets[1]).release().perform()

    def choose(self, number):
        self.one("#chosen input").click()
        self.waiting.until(lambda _: self.all("#chosen [role=option]"))[number].click()

    def save(self, *words):
        self.one("#save").click()
        self.wait_for("#saved", *words)
        return self.text("#saved")
