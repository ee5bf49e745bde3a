// A page that lies in a file may start no worker, and the theme searches in one: an iframe takes its place there.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(address) {
      super()
      this.frame = document.createElement("iframe")
      this.frame.hidden = true
      document.body.append(this.frame)
      const inside = this.frame.contentWindow
      inside.postMessage = (data) => {
        const event = new MessageEvent("message", { data })
        this.dispatchEvent(event)
        this.onmessage?.(event)
      }
      const script = inside.document.createElement("script")
      this.ready = new Promise((resolve) => script.addEventListener("load", resolve))
      script.src = address
      inside.document.body.append(script)
    }
    postMessage(data) {
      this.ready.then(() => {
        const inside = this.frame.contentWindow
        const event = new inside.MessageEvent("message", { data })
        inside.dispatchEvent(event)
      })
    }
    terminate() {
      this.frame.remove()
    }
  }
}
