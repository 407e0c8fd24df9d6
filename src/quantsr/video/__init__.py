"""Videos (extra `video`): frames enlarged one by one, all else copied. The rules are told in docs/video.md.

Nothing here holds more than a few frames. The new video stream is made in segments, files of their own that stay until
the whole is put together, so that a run that was stopped loses at most the segment in hand.
"""
