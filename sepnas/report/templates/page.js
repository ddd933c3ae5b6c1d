// Tips at once and on touch, where the browser's own would come late or not at all; without script they remain.
(() => {
  const tip = document.createElement("div");
  tip.id = "tip";
  tip.hidden = true;
  document.body.append(tip);
  const marks = [...document.querySelectorAll(".mark")];
  for (const mark of marks) {
    const title = mark.querySelector(":scope > title");
    mark.dataset.tip = title.textContent;
    title.remove();
  }
  const light = (mark) => {
    const key = mark?.dataset.key;
    for (const other of marks) other.classList.toggle("lit", other === mark || (!!key && other.dataset.key === key));
  };
  const show = (event) => {
    const mark = event.target.closest?.(".mark");
    tip.hidden = !mark;
    light(mark);
    if (!mark) return;
    tip.textContent = mark.dataset.tip;
    const { width, height } = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(8, Math.min(event.clientX + 14, innerWidth - width - 8))}px`;
    tip.style.top = `${event.clientY + 18 + height > innerHeight ? event.clientY - height - 12 : event.clientY + 18}px`;
  };
  document.addEventListener("pointerover", show);
  document.addEventListener("pointerdown", show);
  addEventListener("scroll", () => { tip.hidden = true; light(null); }, { passive: true });
})();
