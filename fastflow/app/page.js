// What the page does without the server. `show` follows the slider, as all frames are on the page already, and it follows
// new films, because the slider may have moved while they were made.
window.fastflow = {
  show: (step) => setTimeout(() => window.fastflow.showNow(step)), // after the new films are in place

  showNow(step) {
    const words = step === 0 ? "start" : (step > 0 ? "+" : "\u2212") + Math.abs(step);
    for (const film of document.querySelectorAll(".ff-film")) {
      if (!film.querySelector(`.ff-frame[data-step="${step}"]`)) continue;
      for (const image of film.querySelectorAll("img[data-step]"))
        image.toggleAttribute("data-on", image.dataset.step === String(step));
      film.querySelector(".ff-step").textContent = words;
    }
  },

  // A field to draw on, white on black; the canvas has the width of the line in `data-pen`.
  pad(element) {
    const canvas = element.querySelector("canvas");
    const pen = canvas.getContext("2d", { willReadFrequently: true });
    Object.assign(pen, { strokeStyle: "#fff", lineCap: "round", lineJoin: "round", lineWidth: Number(canvas.dataset.pen) });
    const place = (event) => {
      const box = canvas.getBoundingClientRect();
      return [(event.clientX - box.left) * canvas.width / box.width, (event.clientY - box.top) * canvas.height / box.height];
    };
    let last = null;
    const draw = (event) => {
      if (last === null) return;
      pen.beginPath();
      pen.moveTo(...last);
      pen.lineTo(...(last = place(event)));
      pen.stroke();
    };
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      last = place(event);
      draw(event);
    });
    canvas.addEventListener("pointermove", draw);
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { last = null; });
  },

  clear() {
    const canvas = document.querySelector(".ff-pad canvas");
    canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
  },

  drawing: () => document.querySelector(".ff-pad canvas").toDataURL("image/png"),
};
