"""A real RTSP server, GStreamer's, in a process of its own.

    /usr/bin/python3 rtsp_server.py PORT WIDTH HEIGHT [--pictures FILE] [--password PASSWORD]

It serves /live, H.264 with 25 frames per second, as soon as a client connects. Frame n is uniform gray of the value
5 + 5 * (n % 50), or picture n of the file, over and over: RGB, 3 bytes a pixel, one picture after the other. Port 0 is
any free port. With a password, it serves the user "user" only. It prints "listening on PORT" when it is ready. Run it
with the system's Python, because PyGObject and GStreamer come from the distribution:

    apt install python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-ugly
"""

import argparse
import itertools
from pathlib import Path

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("port", "width", "height"):
        parser.add_argument(name, type=int)
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--password")
    arguments = parser.parse_args()
    width, height = arguments.width, arguments.height
    size = 3 * width * height
    if arguments.pictures:
        content = arguments.pictures.read_bytes()
        pictures = [content[begin : begin + size] for begin in range(0, len(content), size)]
    else:
        pictures = [bytes([5 + 5 * number]) * size for number in range(50)]
    Gst.init(None)
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_shared(True)
    factory.set_launch(
        "( appsrc name=source is-live=true format=time "
        f"caps=video/x-raw,format=RGB,width={width},height={height},framerate=25/1 "
        "! videoconvert ! video/x-raw,format=I420 "
        "! x264enc tune=zerolatency speed-preset=ultrafast key-int-max=10 ! rtph264pay name=pay0 )"
    )
    numbers = itertools.count()

    def begin(_: object, media: object) -> None:
        source = media.get_element().get_by_name("source")
        times = itertools.count(0, 40 * Gst.MSECOND)

        def push() -> bool:
            buffer = Gst.Buffer.new_wrapped(pictures[next(numbers) % len(pictures)])
            # Not by the clock (do-timestamp): a frame that arrives before the pipeline plays would get the time since
            # the machine was started, and the server would wait as long before it sends it.
            buffer.pts = next(times)
            source.emit("push-buffer", buffer)
            return True

        timer = GLib.timeout_add(40, push)
        media.connect("unprepared", lambda _: GLib.source_remove(timer))

    factory.connect("media-configure", begin)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(str(arguments.port))
    if arguments.password:
        protect(server, factory, arguments.password)
    server.get_mount_points().add_factory("/live", factory)
    server.attach(None)
    print(f"listening on {server.get_bound_port()}", flush=True)
    GLib.MainLoop().run()


def protect(server: object, factory: object, password: str) -> None:
    permissions = GstRtspServer.RTSPPermissions()
    for right in ("media.factory.access", "media.factory.construct"):
        permissions.add_permission_for_role("user", right, True)
    factory.set_permissions(permissions)
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", "user")
    guard = GstRtspServer.RTSPAuth()
    guard.add_basic(GstRtspServer.RTSPAuth.make_basic("user", password), token)
    server.set_auth(guard)


main()
