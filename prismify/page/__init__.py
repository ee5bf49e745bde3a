"""What is shown: a report as one HTML page that needs nothing beside itself, and no network.

`document` makes the page's data of a report, as plain as that, `pictures` what they hold of pictures; `filling` puts
them into `page.html`, with `page.css` and the scripts. Everything else happens in the reader's browser.
"""

from .document import document_of, unpacked
from .filling import GENERATOR, HTML_NAME, page_text
from .pictures import embedded_picture

__all__ = ["GENERATOR", "HTML_NAME", "document_of", "embedded_picture", "page_text", "unpacked"]
