//! Leveret's attribute. Programs use it as `leveret::task`.

use proc_macro::TokenStream;

/// Makes a function a task.
#[proc_macro_attribute]
pub fn task(_attribute: TokenStream, function: TokenStream) -> TokenStream {
    function
}
