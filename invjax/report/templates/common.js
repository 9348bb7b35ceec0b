'use strict';
const one = (selector, root = document) => root.querySelector(selector);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
for (const box of all('.code')) one('button', box).addEventListener('click', async () => {
  const button = one('button', box);
  try { await navigator.clipboard.writeText(one('pre', box).textContent); }
  catch {
    // A page from a file may have no clipboard: select, so that Ctrl-C works.
    const range = document.createRange();
    range.selectNodeContents(one('pre', box));
    const selection = getSelection();
    selection.removeAllRanges(); selection.addRange(range);
    document.execCommand('copy');
  }
  button.textContent = 'copied';
  setTimeout(() => { button.textContent = 'copy'; }, 1500);
});
// Two pictures, one over the other; the right one is cut off at the bar.
for (const box of all('.compare')) {
  const range = one('input', box);
  const move = () => box.style.setProperty('--at', range.value + '%');
  range.addEventListener('input', move);
  move();
}
// A picture, enlarged by a whole number of pixels.
const zoom = one('#zoom');
const zoomed = { pictures: [], at: 0 };
function pictureOf(element) {
  return element.matches('canvas') ? element.toDataURL() : element.src;
}
function nameOf(element) { return element.alt || element.getAttribute('aria-label') || ''; }
function drawZoom() {
  const element = zoomed.pictures[zoomed.at], size = one('input', zoom);
  const img = one('img', zoom);
  img.src = pictureOf(element);
  img.alt = one('strong', zoom).textContent = nameOf(element);
  one('output', zoom).textContent = size.value + ' x';
  const width = element.naturalWidth || element.width;
  img.style.width = width * size.value / devicePixelRatio + 'px';
}
function openZoom(element) {
  zoomed.pictures = all('.pictures img, .pictures canvas', element.closest('section'))
    .filter(found => found.offsetParent);
  zoomed.at = Math.max(zoomed.pictures.indexOf(element), 0);
  const width = element.naturalWidth || element.width;
  const fit = Math.floor(Math.min(innerWidth * .9, innerHeight * .75) * devicePixelRatio / width);
  one('input', zoom).value = Math.max(fit, 1);
  drawZoom();
  zoom.showModal();
}
one('input', zoom).addEventListener('input', drawZoom);
zoom.addEventListener('keydown', event => {
  const size = one('input', zoom), number = zoomed.pictures.length;
  const turn = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (turn && event.target !== size) zoomed.at = (zoomed.at + turn + number) % number;
  else if (event.key === '+') size.stepUp();
  else if (event.key === '-') size.stepDown();
  else return;
  event.preventDefault();
  drawZoom();
});
zoom.addEventListener('click', event => { if (event.target === zoom) zoom.close(); });
for (const element of all('.pictures img, .pictures canvas')) {
  element.tabIndex = 0;
  if (element.matches('img')) element.setAttribute('role', 'button');
  element.addEventListener('click', () => openZoom(element));
  element.addEventListener('keydown', event => {
    if (event.key === 'Enter' || event.key === ' ') { event.preventDefault(); openZoom(element); }
  });
}
// On paper there is nothing to unfold.
addEventListener('beforeprint', () => all('details').forEach(found => { found.open = true; }));
