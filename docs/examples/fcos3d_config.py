"""FCOS3D for the synthetic scenes: ResNet-18, three levels, images of 176x96 as they are. An mmdet3d config."""

class_names = [
    "car", "truck", "trailer", "bus", "construction_vehicle",
    "bicycle", "motorcycle", "pedestrian", "traffic_cone", "barrier",
]  # fmt: skip

model = dict(
    type="FCOSMono3D",
    data_preprocessor=dict(
        type="Det3DDataPreprocessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=32,
    ),
    backbone=dict(
        type="mmdet.ResNet",
        depth=18,
        base_channels=16,
        num_stages=4,
        out_indices=(1, 2, 3),
        norm_cfg=dict(type="BN"),
        norm_eval=False,
    ),
    neck=dict(type="mmdet.FPN", in_channels=[32, 64, 128], out_channels=32, num_outs=3),
    bbox_head=dict(
        type="FCOSMono3DHead",
        num_classes=10,
        in_channels=32,
        feat_channels=32,
        stacked_convs=1,
        strides=[8, 16, 32],
        regress_ranges=((-1, 24), (24, 48), (48, 1e8)),
        group_reg_dims=(2, 1, 3, 1, 2),  # offset, depth, size, yaw, velocity
        cls_branch=(32,),
        reg_branch=((32,), (32,), (32,), (32,), ()),
        dir_branch=(32,),
        attr_branch=(32,),
        pred_attrs=True,
        pred_velo=True,
        use_direction_classifier=True,
        diff_rad_by_sin=True,
        dir_offset=0.7854,
        dcn_on_last_conv=True,
        norm_cfg=dict(type="BN"),
        loss_cls=dict(type="mmdet.FocalLoss", use_sigmoid=True),
        loss_bbox=dict(type="mmdet.SmoothL1Loss", beta=0.1111),
        loss_dir=dict(type="mmdet.CrossEntropyLoss", use_sigmoid=False),
        loss_attr=dict(type="mmdet.CrossEntropyLoss", use_sigmoid=False),
        loss_centerness=dict(type="mmdet.CrossEntropyLoss", use_sigmoid=True),
        bbox_coder=dict(type="FCOS3DBBoxCoder", code_size=9),
        norm_on_bbox=True,
        centerness_on_reg=True,
        center_sampling=True,
    ),
    train_cfg=dict(code_weight=[1.0, 1.0, 0.2, 1.0, 1.0, 1.0, 1.0, 0.05, 0.05]),
    test_cfg=dict(use_rotate_nms=True, nms_pre=20, nms_thr=0.8, score_thr=0.001, max_per_img=50),
)

train_pipeline = [
    dict(type="LoadImageFromFileMono3D"),
    dict(
        type="LoadAnnotations3D",
        with_bbox=True,
        with_label=True,
        with_attr_label=True,
        with_bbox_3d=True,
        with_label_3d=True,
        with_bbox_depth=True,
    ),
    dict(type="mmdet.Resize", scale_factor=1.0),
    dict(type="RandomFlip3D", flip_ratio_bev_horizontal=0.5),
    dict(
        type="Pack3DDetInputs",
        keys=[
            "img", "gt_bboxes", "gt_bboxes_labels", "attr_labels",
            "gt_bboxes_3d", "gt_labels_3d", "centers_2d", "depths",
        ],
    ),
]  # fmt: skip
test_pipeline = [
    dict(type="LoadImageFromFileMono3D"),
    dict(type="mmdet.Resize", scale_factor=1.0),
    dict(type="Pack3DDetInputs", keys=["img"]),
]

dataset = dict(
    type="NuScenesDataset",
    load_type="mv_image_based",  # one camera image after the other
    box_type_3d="Camera",
    modality=dict(use_camera=True, use_lidar=False),
    metainfo=dict(classes=class_names),
    use_valid_flag=True,
)
train_dataloader = dict(dataset=dict(dataset, pipeline=train_pipeline))
test_dataloader = dict(dataset=dict(dataset, pipeline=test_pipeline))
