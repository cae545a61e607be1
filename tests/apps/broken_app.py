"""A Flower app that raises."""


def app(grid, context):
    raise ValueError("this app is broken")
