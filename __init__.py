"""The clone is no package: the one to import lies inside of it.

This file is met where Python is started in the folder that holds the clone, and
the clone is called `invjax`. Without it Python takes the clone for a package
without content, and the first use fails with an error that names nothing.
"""

# By pytest it is met under another name, and is nothing.
if __name__ == 'invjax':
    raise ImportError(
        'this `invjax` is the clone, not the package inside it, since Python was '
        'started in the folder that holds the clone; start it in the clone or in '
        'any other folder.'
    )
