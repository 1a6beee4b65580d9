"""The pages for people: landing page, project page, effective configuration, their stylesheet and script.

It must not know how connections are accepted, nor ask a cloud for anything.
"""
