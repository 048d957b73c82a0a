// An editor in which a mask over a picture is painted and erased with mouse, pen or finger. Gradio calls this once, with
// `element`, `props` and `watch`. props.value is {picture, mask}, two data URIs; it is sent back with the edited mask,
// which is opaque where there is lesion and transparent elsewhere.
const find = (selector) => element.querySelector(selector);
const [image, canvas, size, undo] = ["img", "canvas", "[data-size]", "[data-undo]"].map(find);
const pen = canvas.getContext("2d", { willReadFrequently: true });
let tool = "brush", last = null, before = [];

async function load(uri) {
  const picture = new Image();
  picture.src = uri;
  await picture.decode();
  return picture;
}

async function show() {
  const value = props.value;
  if (!value || !value.mask) return;
  const [picture, mask] = await Promise.all([load(value.picture), load(value.mask)]);
  if (value !== props.value) return;  // another picture was chosen meanwhile
  image.src = picture.src;
  [canvas.width, canvas.height] = [mask.width, mask.height];
  find(".stage").style.maxWidth = `calc(80vh * ${mask.width / mask.height})`;
  pen.drawImage(mask, 0, 0);
  Object.assign(pen, { lineCap: "round", lineJoin: "round", strokeStyle: "#e69f00" });
  before = [];
  undo.disabled = true;
}

function keep() {
  before.push(pen.getImageData(0, 0, canvas.width, canvas.height));
  if (before.length > 20) before.shift();
  undo.disabled = false;
}

function hand_back() {
  props.value = { ...props.value, mask: canvas.toDataURL("image/png") };
}

function line_to(event) {
  const box = canvas.getBoundingClientRect(), scale = canvas.width / box.width;
  const point = [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
  pen.globalCompositeOperation = tool === "brush" ? "source-over" : "destination-out";
  pen.lineWidth = size.value * Math.max(scale, 1);
  pen.beginPath();
  pen.moveTo(...(last || point));
  pen.lineTo(...point);
  pen.stroke();
  last = point;
}

canvas.addEventListener("pointerdown", (event) => {
  if (event.button || !props.value) return;
  canvas.setPointerCapture(event.pointerId);
  keep();
  last = null;
  line_to(event);
});
canvas.addEventListener("pointermove", (event) => last && event.getCoalescedEvents().concat(event).forEach(line_to));
for (const end of ["pointerup", "pointercancel"]) {
  canvas.addEventListener(end, () => { if (last) { last = null; hand_back(); } });
}
undo.addEventListener("click", () => {
  pen.putImageData(before.pop(), 0, 0);
  undo.disabled = !before.length;
  hand_back();
});
find("[data-clear]").addEventListener("click", () => {
  keep();
  pen.clearRect(0, 0, canvas.width, canvas.height);
  hand_back();
});
for (const button of element.querySelectorAll("[data-tool]")) {
  button.addEventListener("click", () => {
    tool = button.dataset.tool;
    element.querySelectorAll("[data-tool]").forEach((b) => b.setAttribute("aria-pressed", b === button));
  });
}
watch("value", show);
show();
