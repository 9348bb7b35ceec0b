'use strict';
const one = (selector, root = document) => root.querySelector(selector);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
for (const button of all('.code button')) {
  button.addEventListener('click', async () => {
    const text = one('pre', button.parentElement).textContent;
    try { await navigator.clipboard.writeText(text); }
    catch {
      // A page from a file may have no clipboard: select, so that Ctrl-C works.
      const range = document.createRange();
      range.selectNodeContents(one('pre', button.parentElement));
      const selection = getSelection();
      selection.removeAllRanges(); selection.addRange(range);
      document.execCommand('copy');
    }
    button.textContent = 'copied';
    setTimeout(() => { button.textContent = 'copy'; }, 1500);
  });
}
const zoom = one('#zoom');
document.addEventListener('click', event => {
  const picture = event.target.closest('.pictures img');
  if (!picture) return;
  one('img', zoom).src = picture.src;
  one('figcaption', zoom).textContent = picture.alt;
  zoom.showModal();
});
